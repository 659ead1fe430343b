"""What raycompress costs beside the trials' own work: ``make bench``, or ``python -m tests.benchmarks --help``.

No figure here is asserted in a test: machines differ, and this one is shared.
"""
