"""Compression in stages: each works on what the one before left."""
