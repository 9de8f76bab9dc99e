#!/bin/sh
# Checks and measures this package on an NVIDIA GPU within 8 minutes, from a clone and a Python with torch: docs/figures.md.
root=$(cd "$(dirname "$0")/.." && pwd)
PYTHONPATH="$root:$root/models:$root/engine" exec python3 -m penguin_engine.bench.gpu_check "$@"
