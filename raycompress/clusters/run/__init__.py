"""The life of a search on a cluster."""
