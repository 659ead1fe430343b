"""The agent: a program of the standard library and numpy that converts, runs and times models in an inference runtime.

raycompress starts it with the Python of the environment that has the runtime, or sends it to another machine, as one
file (`raycompress.deployment.package`). It and its client speak by `frames` over the standard streams.
"""
