"""The Open Inference Protocol, and the models that it reaches: arrays by name in, arrays by name out."""
