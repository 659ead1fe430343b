"""The experiment file: read, checked, with its defaults."""
