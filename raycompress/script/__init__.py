"""What the user's script touches; the standard library only."""
