"""Starts the agent on the standard streams."""

from .serve import main

main()
