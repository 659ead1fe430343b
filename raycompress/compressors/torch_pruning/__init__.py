"""Torch-Pruning's methods."""
