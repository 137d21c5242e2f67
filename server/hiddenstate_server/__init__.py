"""The hiddenstate server: recurrent models on ONNX Runtime behind gRPC."""
