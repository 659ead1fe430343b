"""A search on a Ray cluster: brought up, submitted to, followed, fetched from, torn down."""
