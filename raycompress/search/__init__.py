"""What a search tries next, when it stops, and what is best."""
