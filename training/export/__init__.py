"""Any nn.Module plus its TensorSpecs to ONNX and TensorRT, with parity checks."""
