"""Other ways to run the same trials, each a command: ``python -m tests.benchmarks.peers.<name> configs.json``.

`configs.json` holds a list of concrete configurations; each peer runs the digits script on all of them, two at a time
where it can.
"""
