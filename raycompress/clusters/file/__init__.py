"""A cluster file: found, read, checked, filled in."""
