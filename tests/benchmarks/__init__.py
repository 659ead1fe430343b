"""What raycompress costs beside the trials' own work: ``make bench``, or ``python -m tests.benchmarks --help``.

No figure here is asserted in a test: machines differ, and this one is shared.
"""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[2]
