"""NNI's pruners."""
