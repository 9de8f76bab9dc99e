"""The model as ONNX graphs, written operator by operator."""
