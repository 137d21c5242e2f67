"""Trains recurrent models in PyTorch and publishes them as ONNX bundles."""
