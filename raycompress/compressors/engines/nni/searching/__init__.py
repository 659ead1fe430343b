"""NNI's pruners that search how much to remove from each layer."""
