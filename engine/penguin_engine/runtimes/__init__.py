"""The runtimes that implement `penguin_engine.runtimes.base.Runtime`: torch, ONNX Runtime and TensorRT."""
