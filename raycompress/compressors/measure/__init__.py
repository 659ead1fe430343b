"""How large and how fast a torch model is."""
