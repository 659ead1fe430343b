"""Verbs that run an experiment's script."""
