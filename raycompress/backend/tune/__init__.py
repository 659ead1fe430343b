"""Trials run by Ray Tune."""
