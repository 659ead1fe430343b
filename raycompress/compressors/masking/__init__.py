"""Masks on a live torch model."""
