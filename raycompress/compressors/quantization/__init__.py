"""Quantization of torch models."""
