"""Saving a torch model: its bundle, ONNX, and the check that the reported model is the saved one."""
