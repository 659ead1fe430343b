"""The API for user scripts; imports the standard library only."""
