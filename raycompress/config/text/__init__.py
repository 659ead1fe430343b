"""The text of an experiment file: read, and every value's place in it."""
