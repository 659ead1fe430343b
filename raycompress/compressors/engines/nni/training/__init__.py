"""NNI's pruners that act while a model trains, or that train it."""
