"""``python -m tests.benchmarks.deployment``, in the environment of ``make zoo``: measure, and write the table."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tests.benchmarks import ROOT
from tests.benchmarks.deployment import table
from tests.benchmarks.deployment.measuring import RUNTIMES, measure
from tests.benchmarks.outcome import describe_machine
from tests.support.outside.environments import TARGETS


def main() -> None:
    """Measure what is not known yet, and write the page."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.deployment", description=__doc__)
    parser.add_argument("--lines", type=Path, default=ROOT / "bench_results" / "deployment.jsonl", help="go on with")
    parser.add_argument("--seconds", type=float, default=8.0, help="of timing, for each network in each runtime")
    parser.add_argument("--networks", nargs="+", default=(), help="some of them, by parts of their names")
    parser.add_argument("--runtimes", nargs="+", choices=RUNTIMES, default=RUNTIMES, help="some of them")
    parser.add_argument("--no-page", action="store_true", help="leave the page as it is")
    options = parser.parse_args()
    machine = describe_machine()
    options.lines.parent.mkdir(parents=True, exist_ok=True)
    lines = measure(
        TARGETS.python,
        options.lines,
        lambda text: print(text, file=sys.stderr, flush=True),
        names=options.networks,
        runtimes=options.runtimes,
        seconds=options.seconds,
    )
    if not options.no_page:
        table.write(lines, f"{machine['machine']} ({machine['load']})")
        print(f"{table.PAGE} is written")


if __name__ == "__main__":
    main()
