"""What predicts a cost of narrow networks: fitted to real ones, which are timed or written to files."""
