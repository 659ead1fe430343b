"""Networks and scripts that tests compress."""
