"""Deployment targets: models converted for an inference runtime, run and timed in it, here or on another machine."""
