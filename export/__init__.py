"""Export: from weights to the ONNX step model and decoder."""
