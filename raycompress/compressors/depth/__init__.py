"""Dropping whole residual blocks of a network: which ones there are, which matter least, and the proof."""
