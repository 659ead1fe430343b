"""A search: experiment -> Ray Tune -> trials. Importing this package imports no ray."""
