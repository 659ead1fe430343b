"""Networks that people have: which there are, how each is made and how it is called."""
