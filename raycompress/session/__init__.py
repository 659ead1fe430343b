"""The life of one search: prepared, launched, resumed, verified. Importing this package imports no ray."""
