"""The runtimes, a class each."""
