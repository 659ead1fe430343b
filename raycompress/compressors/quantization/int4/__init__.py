"""Weights of 4 bits: how they are rounded, and how they stand in ONNX files and in bundles."""
