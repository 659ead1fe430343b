"""Several processes of one script: what they agree on, and what each has of its own."""
