"""The graph passes that turn an ONNX model into a compiled one."""
