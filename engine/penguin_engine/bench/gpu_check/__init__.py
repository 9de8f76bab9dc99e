"""The prepared GPU day: what `scripts/gpu_check.sh` runs. Only the modules with steps need packages."""
