"""What works on a machine and what does not, each with its fix; looked at without starting anything."""
