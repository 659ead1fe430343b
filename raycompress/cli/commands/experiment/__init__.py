"""Verbs that read an experiment file and run nothing."""
