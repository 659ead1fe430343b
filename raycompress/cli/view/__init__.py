"""What a person sees: the live table, tables, the conclusion of a search."""
