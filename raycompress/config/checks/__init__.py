"""What can be wrong with an experiment beyond the types of its keys."""
