"""The shell commands around a script, in real trials."""

import pytest

from raycompress.states import TrialState
from tests.support.trials import run

REPORTS = "import os, pathlib, sys\nrc.report(score=float(os.environ.get('WEIGHT', '0')))\n"


def test_the_script_finds_what_the_commands_before_it_export(worker, spec):
    before = (
        "export WEIGHT=0.5; LOCAL=1; export PYTHONPATH=$PWD/more; mkdir -p more; echo 'x = 3' > more/found_there.py"
    )
    script = REPORTS + "import found_there; assert found_there.x == 3\nassert 'LOCAL' not in os.environ\n"
    _, ending = run(worker, spec(script, prescript=before))
    assert (ending.state, ending.cause) == (TrialState.FINISHED, "")
    assert ending.values == {"score": 0.5}


def test_several_commands_print_into_the_trials_log_and_see_its_environment(worker, spec, tmp_path):
    trial = spec(REPORTS, prescript="echo before $GIVEN; pwd", postscript="echo after $WEIGHT", env={"GIVEN": "7"})
    _, ending = run(worker, trial)
    assert ending.state == TrialState.FINISHED
    printed = trial.log_path.read_text()
    assert printed.splitlines() == ["before 7", str(tmp_path), "after"]


def test_an_environment_larger_than_a_pipe(worker, spec):
    before = "export LARGE=$(printf 'x%.0s' {1..70000}) MORE=$(printf 'x%.0s' {1..70000}) WEIGHT=1"
    _, ending = run(worker, spec(REPORTS + "assert len(os.environ['MORE']) == 70000\n", prescript=before))
    assert ending.cause == ""


@pytest.mark.parametrize("commands", ["exit 3", "true; (exit 3)", "no-such-command-here || exit 3"])
def test_commands_before_that_fail_are_the_trials_failure(worker, spec, commands, tmp_path):
    _, ending = run(worker, spec(REPORTS + "pathlib.Path('ran').touch()\n", prescript=commands))
    assert ending.state == TrialState.FAILED
    assert "prescript ended with exit code 3" in ending.cause
    assert not (tmp_path / "ran").exists()


def test_commands_after_run_even_when_the_script_fails(worker, spec, tmp_path):
    for script in ("raise ValueError('first')\n", "sys.exit(4)\n"):
        (tmp_path / "cleaned").unlink(missing_ok=True)
        _, ending = run(worker, spec("import sys\n" + script, postscript="touch cleaned; exit 9"))
        assert ending.state == TrialState.FAILED
        assert "ValueError: first" in ending.cause or "exit code 4" in ending.cause
        assert (tmp_path / "cleaned").exists()


def test_commands_after_that_fail_are_the_trials_failure(worker, spec):
    _, ending = run(worker, spec(REPORTS, postscript="exit 9"))
    assert ending.state == TrialState.FAILED
    assert "postscript ended with exit code 9" in ending.cause


def test_inspection_runs_them_too(worker, spec, tmp_path):
    trial = spec(REPORTS, mode="inspect", prescript="touch one", postscript="touch two")
    _, ending = run(worker, trial)
    assert ending.state == TrialState.FINISHED
    assert (tmp_path / "one").exists() and (tmp_path / "two").exists()
