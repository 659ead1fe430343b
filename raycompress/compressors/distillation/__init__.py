"""Distillation: a small model learns from the dense one's answers, features and attention."""
