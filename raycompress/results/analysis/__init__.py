"""Results of a layer analysis."""
