"""Verbs that read what a search has left."""
