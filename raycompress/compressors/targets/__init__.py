"""Which layers of a model a config_list means."""
