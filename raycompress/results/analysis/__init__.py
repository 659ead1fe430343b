"""What an analysis of a model found."""
