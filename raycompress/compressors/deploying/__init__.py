"""A model made for a deployment target: converted, proved against the measured model, timed beside the dense one."""
