"""The tables of docs/, made from the code and from runs: ``python -m tests.tables`` writes them."""
