"""Which channels of a model hang together, and how they are cut out."""
