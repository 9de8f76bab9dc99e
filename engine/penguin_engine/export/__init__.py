"""A checkpoint becomes a folder for robots: checkpoint_to_onnx.py -> graphs/ (and quantisation) -> manifest.py."""
