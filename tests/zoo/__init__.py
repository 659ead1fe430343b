"""Networks that people have: a catalogue, and what the engine for couplings says of each (`make zoo`)."""
