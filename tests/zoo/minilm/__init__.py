"""all-MiniLM-L6-v2 with its real weights, pruned under budgets and in int8 (`make zoo`, docs/minilm.md)."""
