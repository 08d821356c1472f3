"""bnncc: compiles binary neural networks in ONNX for fast, exact CPU inference."""
