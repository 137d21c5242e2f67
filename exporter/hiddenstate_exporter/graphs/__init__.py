"""ONNX graphs from plain weights, without PyTorch."""
