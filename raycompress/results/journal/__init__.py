"""The record of an experiment: one JSON event a line."""
