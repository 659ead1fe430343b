"""What kind of test each is, by what it needs: its marker, its turn, and whether it waits for the night.

A room has its kind, and so have some files of it; a test that differs carries the mark itself. A test without a kind is
an error of the collection.
"""

from __future__ import annotations

from pathlib import Path

import pytest

KINDS = ("unit", "engine", "ray", "external")
TESTS = Path(__file__).parent.parent
ROOMS = {
    "backend": "ray",
    "benchmarks": "engine",
    "catalog": "unit",
    "catalog/test_plugins.py": "ray",
    "cli": "unit",
    "cli/test_analyze.py": "engine",
    "cli/test_from_script.py": "ray",
    "cli/test_launch.py": "ray",
    "cli/test_live.py": "ray",
    "clusters": "external",
    "clusters/test_cluster_files.py": "unit",
    "clusters/test_following.py": "unit",
    "clusters/test_prepared.py": "unit",
    "clusters/test_shipped_cluster_files.py": "unit",
    "compressors": "engine",
    "config": "unit",
    "configs": "engine",
    "deployment": "engine",
    "deployment/test_devices.py": "external",
    "deployment/test_searches.py": "ray",
    "doctor": "unit",
    "forecast": "unit",
    "fuzz": "unit",
    "fuzz/test_bundles.py": "engine",
    "integrations": "engine",
    "integrations/test_integrations.py": "unit",
    "integrations/test_trainer_search.py": "ray",
    "model": "unit",
    "old": "ray",
    "old/test_one_time.py": "engine",
    "old/test_utilities.py": "engine",
    "old/test_wrong_files.py": "engine",
    "results": "unit",
    "results/test_bundle.py": "engine",
    "results/test_optuna_dashboard.py": "external",
    "results/test_report_page.py": "external",
    "results/test_s3_candidates.py": "external",
    "results/test_s3_faults.py": "external",
    "results/test_s3_journal.py": "external",
    "runtime": "unit",
    "runtime/test_checkpoint.py": "engine",
    "runtime/test_memory.py": "engine",
    "runtime/test_torchrun.py": "engine",
    "runtime/test_shared.py": "engine",
    "script": "unit",
    "search": "unit",
    "search/test_loggers.py": "ray",
    "session": "ray",
    "session/test_old_scripts.py": "engine",
    "tables": "engine",
    "testing": "engine",
    "zoo": "engine",
}
LONGEST = (
    "clusters/test_local_cluster.py",
    "session/test_faults.py",
    "session/test_budgeted_launch.py",
    "session/test_resume.py",
    "session/test_killed.py",
    "session/test_s3_killed.py",
    "session/test_s3_search.py",
    "session/test_python.py",
    "clusters/test_aws_up.py",
    "test_python_docs.py",
    "old/test_automatic.py",
)
"""Files that begin first, so that no worker is left with one of them at the end; after them those with Ray."""
_TURNS = ("ray", "external", "engine", "unit")


def kind_of(path: Path) -> str | None:
    """Return the kind that a file has by its place; None where the table does not know it."""
    name = path.relative_to(TESTS).as_posix()
    places = [place for place in ROOMS if name == place or name.startswith(f"{place}/")]
    if path.parent == TESTS:
        return "unit"
    return ROOMS[max(places, key=len)] if places else None


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Do not import what has no test of the one kind that is asked for."""
    wanted = config.option.markexpr
    if wanted not in KINDS or collection_path.suffix != ".py" or TESTS not in collection_path.parents:
        return None
    if kind_of(collection_path) in (wanted, None) or f"mark.{wanted}" in collection_path.read_text():
        return None
    return True


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark the tests, leave those of the night to it, and let the long ones begin."""
    unknown: set[Path] = set()
    for item in items:
        if not any(item.get_closest_marker(kind) for kind in KINDS):
            kind = kind_of(item.path)
            if kind is None:
                unknown.add(item.path)
            else:
                item.add_marker(kind)
        if "is_nightly" in getattr(item, "fixturenames", ()) or item.path.parent.name == "fuzz":
            item.add_marker("more_at_night")
    if unknown:
        names = ", ".join(sorted(str(path) for path in unknown))
        raise pytest.UsageError(f"tests of no kind ({', '.join(KINDS)}): {names}; give them one in {__file__}")
    if config.getoption("--hypothesis-profile") != "nightly":
        late = [item for item in items if item.get_closest_marker("night")]
        config.hook.pytest_deselected(items=late)
        items[:] = [item for item in items if not item.get_closest_marker("night")]
    items.sort(key=_turn)


def _turn(item: pytest.Item) -> tuple[int, int]:
    name = item.path.relative_to(TESTS).as_posix()
    kind = kind_of(item.path)
    return LONGEST.index(name) if name in LONGEST else len(LONGEST), _TURNS.index(kind) if kind else 0
