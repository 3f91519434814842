"""Runtime: load an engine directory and draw pictures; needs no torch and no onnx."""
