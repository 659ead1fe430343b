"""Verbs about machines: what works here, and clusters."""
