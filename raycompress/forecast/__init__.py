"""Predicts the sizes and the metric of a proposal before it is trained."""
