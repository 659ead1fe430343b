"""One script run in one process: the warm process, its children, their messages."""
