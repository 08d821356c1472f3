"""The C library: its binding, and the operators it adds to onnxruntime."""
