"""Checks of this machine and of a cluster file, before they are needed."""
