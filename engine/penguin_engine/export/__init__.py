"""A checkpoint becomes a folder for robots: checkpoint_to_onnx.py -> graphs/ (with quantised weights) -> manifest.py."""
