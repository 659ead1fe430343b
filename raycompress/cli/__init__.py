"""The command line: one file a verb, and what a person sees of a run."""
