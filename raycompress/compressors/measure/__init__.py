"""Measures of models: sizes, latency, difference of outputs."""
