"""Pruning, whatever the engine: what is removed is held at zero while the script trains, and then cut out."""
