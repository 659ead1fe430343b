"""Proposers: what the next trial tries."""
