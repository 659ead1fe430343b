"""Checks of an experiment beyond the types of its keys."""
