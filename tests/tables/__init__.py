"""The tables of docs/compressors.md, made from the catalogue and from runs: ``python -m tests.tables`` writes them."""
