"""Rules that end trials early."""
