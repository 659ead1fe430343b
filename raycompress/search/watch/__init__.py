"""Views of a running search: terminal, lines of text, a relay to another machine, loggers."""
