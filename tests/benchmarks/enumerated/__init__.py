"""A space of widths, depth and bits that is known in every point, and searches of it."""
