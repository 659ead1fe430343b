"""A model goes in, a compressed model and its masks come out."""
