"""Models as ONNX files, which predict without torch."""
