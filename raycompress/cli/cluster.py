"""``raycompress cluster``."""
