"""Files of the old tool in today's form: the same experiment, with nothing left to note."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from raycompress.catalog import CATALOG
from raycompress.catalog.proposers import PROPOSERS
from raycompress.config.experiment import Experiment
from raycompress.config.migration.layout import laid_out
from raycompress.config.migration.report import Migration
from raycompress.config.migration.table import NEW_KEYS, OLD_KEYS, old_key
from raycompress.config.schema.fields import Keys
from raycompress.config.schema.keys import ENGINES, POLICIES, ExperimentKeys, ResourceArgsKeys
from raycompress.config.schema.ranges import KEYS as RANGE_KEYS
from raycompress.config.schema.ranges import is_range
from raycompress.config.schema.spelling import inside, names
from raycompress.config.stopping import EarlyStop
from raycompress.config.text.reader import read
from raycompress.errors import ExperimentError

SEARCHED = {"sparsity": {"range": [0.1, 0.9], "type": "float", "interval": 0.2}, "op_names": ["conv1", "conv2"]}
RESOURCE_ARGS = ResourceArgsKeys.meaningless


def known_keys(model: type[Keys] = ExperimentKeys, prefix: str = "") -> Iterator[str]:
    """Yield every key that the schema knows, as the table writes it."""
    for name in (*names(model), *model.meaningless):
        path = f"{prefix}{name}"
        inner = inside(model).get(name)
        if inner is None or name != "early_stop":
            yield path
        if inner is not None and name != "scheduler":  # which is new, with all that is in it
            members = "[]" if name in ("config_list", "parameter_config") else ""
            yield from known_keys(inner, f"{path}{members}.")


def test_every_key_that_the_schema_knows_is_in_the_table_or_is_new() -> None:
    groups = {"compression", "compression.depth", "job_failure", "resource_args", "runtime_args"}
    ranges = {f"search range: {key}" for key in RANGE_KEYS}
    known = {key for key in known_keys() if key not in groups} | ranges
    known -= {f"parameter_config[].{key}" for key in RANGE_KEYS}  # those of a search range
    old = {key.path for key in OLD_KEYS}
    assert old | set(NEW_KEYS) == known
    assert not old & set(NEW_KEYS)


def test_every_value_that_has_a_row_is_known() -> None:
    values = {path: {key.value for key in OLD_KEYS if key.path == path and key.fate != "refused"} for path in VALUES}
    assert values == VALUES
    assert len({(key.path, key.value) for key in OLD_KEYS}) == len(OLD_KEYS)


VALUES = {
    "proposer": set(PROPOSERS.names()) - {"optuna", "tpe", "guided"},
    "engine": set(ENGINES),
    "resource": {"cpu", "gpu", "node", "aws", "passive"},
}


def test_what_has_no_meaning_is_what_the_schema_drops() -> None:
    told = {key.path for key in OLD_KEYS if key.fate == "no meaning"}
    assert told == {
        "min_budget",
        "max_budget",
        "n_iterations",
        "runtime_args.overwrite",
        *(f"resource_args.{k}" for k in RESOURCE_ARGS),
    }


def write(folder: Path, **keys: Any) -> Path:
    entries = keys.pop("config_list", [SEARCHED])
    compression = {"framework": "torch", "type": "pruning", "compressor": "l1_filter", **keys.pop("compression", {})}
    data = {"name": "old", "script": "train.py", "compression": {**compression, "config_list": entries}, **keys}
    path = folder / "exp.json"
    path.write_text(json.dumps(data, indent=1))
    return path


def acting(experiment: Experiment) -> Experiment:
    """Return an experiment without its text, and without settings that nothing reads: loading makes a note of each."""
    stop = experiment.early_stop
    if stop is not None:
        own = {name: getattr(stop, name) for name in vars(stop) if name.startswith(stop.policy.partition("_")[0])}
        stop = EarlyStop(stop.policy, stop.steps, stop.warmup, **own)
    grid = experiment.proposer == "sequence"
    compression = experiment.compression
    return replace(
        experiment,
        text="",
        accepted=(),
        early_stop=stop,
        bohb=experiment.bohb if experiment.proposer == "bohb" else {},
        compression=replace(compression, config_list=plain(compression.config_list, grid)),
        parameter_config=plain(experiment.parameter_config, grid),
    )


def plain(value: Any, grid: bool) -> Any:
    if isinstance(value, (list, tuple)):
        return tuple(plain(inner, grid) for inner in value)
    if not isinstance(value, dict):
        return value
    steps = () if grid or not is_range(value) else ("interval", "n")
    return {key: plain(inner, grid) for key, inner in value.items() if key not in steps}


def check(path: Path) -> Migration:
    """Migrate a file, as a user would with --write, and compare."""
    before = Experiment.load(path)
    migration = Migration.of(path)
    path.write_text(migration.text)
    after = Experiment.load(path)
    assert acting(before) == acting(after)
    assert after.accepted == ()
    again = Migration.of(path)
    assert (again.text, again.slips, again.changes) == (migration.text, (), ())
    return migration


OLD_FILES: list[dict[str, Any]] = [
    {},
    {"config_list": [{"sparsity": 0.8, "op_types": ["default"]}, {"exclude": True, "op_names": ["conv3"]}]},
    *({"resource": resource} for resource in ("cpu", "gpu", "node", "aws", "passive")),
    *({"proposer": proposer, "eta": 2, "max_iter": 8, "n_samples": 5} for proposer in PROPOSERS.names()),
    *({"proposer": "hyperopt", "engine": engine, "num_samples": 9} for engine in ENGINES),
    {"engine": "rand", "proposer": "bohb", "num_samples": 4, "min_budget": 1, "max_budget": 9},
    {"engine": "anneal"},
    *({"resource_args": {"early_stop": {"aup_policy": policy, "bandit_factor": 0.3}}, "eta": 2} for policy in POLICIES),
    {"resource_args": {"early_stop": {"aup_policy": "curve_fitting", "curve_fitting_timeout": 9, "warmup": 2}}},
    {"resource_args": dict.fromkeys(RESOURCE_ARGS, 1)},
    {"resource_args": {"save_model": True, "multi_res_labels": ["a", "b"], "shutdown": True}},
    {"resource_args": {}, "runtime_args": {"overwrite": False}},
    {"runtime_args": {"prescript": "export A=1", "postscript": "true", "overwrite": True, "env": {"B": "2"}}},
    {"cwd": "jobs", "random_seed": 3, "job_failure": {"job_retries": 2, "ignore_fail": True}},
    {"workingdir": "jobs", "target": "min", "n_parallel": 4},
    {"config_list": [{**SEARCHED, "exclude": False, "expand_op_names": False}]},
    {"config_list": [{"sparsity": SEARCHED["sparsity"], "op_types": ["Conv2d"], "expand_op_names": True}]},
    {"parameter_config": [{"name": "lr", "type": "float", "range": [0.1, 1], "interval": 0.3}]},
    {"parameter_config": [{"name": "e", "type": "int", "range": [1, 9], "n": 3}], "proposer": "sequence"},
    *(
        {"config_list": [], "compression": {"compressor": one.name, "type": one.kind, "framework": one.framework}}
        for one in CATALOG
        if one.without_entries
    ),
]


@pytest.mark.parametrize("keys", OLD_FILES, ids=lambda keys: json.dumps(keys)[:60])
def test_the_new_file_is_the_same_experiment(keys: dict[str, Any], tmp_path: Path) -> None:
    check(write(tmp_path, **keys))


def merged(a: dict[str, Any], b: dict[str, Any]) -> dict[str, Any]:
    both = {**a, **b}
    for key in ("resource_args", "runtime_args"):
        if key in a and key in b:
            both[key] = {**a[key], **b[key]}
    if "config_list" in b or "compression" in b:  # these two go together
        both.update({key: b.get(key, {}) for key in ("compression",)}, config_list=b.get("config_list", [SEARCHED]))
    return both


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=100)
@given(parts=st.lists(st.sampled_from(OLD_FILES), min_size=2, max_size=6), rng=st.randoms(use_true_random=False))
def test_many_old_keys_together(parts: list[dict[str, Any]], rng: random.Random, tmp_path: Path) -> None:
    keys: dict[str, Any] = {}
    for part in parts:
        keys = merged(keys, part)
    keys.pop("workingdir" if "cwd" in keys else "", None)
    shuffled = list(keys.items())
    rng.shuffle(shuffled)
    path = write(tmp_path, **dict(shuffled))
    assume(is_right(path))
    check(path)


def is_right(path: Path) -> bool:
    try:
        Experiment.load(path)
    except ExperimentError:
        return False
    return True


def test_the_order_of_keys_and_what_stood_in_one_line_stay(tmp_path: Path) -> None:
    path = tmp_path / "exp.json"
    path.write_text(OLD)
    migration = Migration.of(path)
    assert migration.text == NEW
    assert [(slip.line, slip.what) for slip in migration.slips] == [
        (2, "text in single quotes"),
        (6, 'a comment after "#"'),
        (9, 'no comma after {"sparsity": {"range": [0.1, 0.9]'),
        (14, "True is no JSON"),
    ]
    assert [(change.line, change.path) for change in migration.changes] == [
        (3, "cwd"),
        (5, "resource"),
        (15, "resource_args.async_run"),
        (17, "runtime_args.overwrite"),
    ]


OLD = """{
    'name': 'äpfel',
    "cwd": ".",
    "script": "mnist.py",
    "resource": "node",
    "compression": {   # of the paper
        "framework": "torch", "type": "pruning", "compressor": "l1_filter",
        "config_list": [
            {"sparsity": {"range": [0.1, 0.9] "type": "float"}, "op_names": ["conv1", "conv2"]},
        ]
    },
    "proposer": "random",
    "resource_args": {
        "save_model": True,
        "async_run": true
    },
    "runtime_args": {"overwrite": true}, "n_samples": 5
}
"""
NEW = """{
    "name": "äpfel",
    "workingdir": ".",
    "script": "mnist.py",
    "resource": "cpu",
    "compression": {   // of the paper
        "framework": "torch",
        "type": "pruning",
        "compressor": "l1_filter",
        "config_list": [
            {"sparsity": {"range": [0.1, 0.9], "type": "float"}, "op_names": ["conv1", "conv2"]}
        ]
    },
    "proposer": "random",
    "resource_args": {
        "save_model": true
    },
    "n_samples": 5
}
"""


COMMENTED_OLD = """// an experiment
/* of two lines:
   this one too */
{ // first
  "name": "x",  // behind name
  // above cwd
  "cwd": ".", /* behind cwd */
  "script": "mnist.py",
  "compression": {"framework": "torch", "type": "pruning", "compressor": "l1_filter",
    "config_list": [ // NNI's
      {"sparsity": {"range": [0.1, /* most */ 0.9], "type": "float"}, "op_names": ["conv1"],},
      // more to come
    ]
  },
  "resource_args": {
    "async_run": true,  // goes
  },
  "n_samples": // how many
    5, # of the old tool's
  "target": "max"
  // last
} // end
// after all
"""
COMMENTED_NEW = """// an experiment
/* of two lines:
   this one too */
{ // first
  "name": "x",  // behind name
  // above cwd
  "workingdir": ".", /* behind cwd */
  "script": "mnist.py",
  "compression": {
    "framework": "torch",
    "type": "pruning",
    "compressor": "l1_filter",
    "config_list": [ // NNI's
      {
        "sparsity": {
          "range": [
            0.1,
            /* most */
            0.9
          ],
          "type": "float"
        },
        "op_names": ["conv1"]
      }
      // more to come
    ]
  },
  // how many
  "n_samples": 5, // of the old tool's
  "target": "max"
  // last
} // end
// after all
"""


def test_comments_keep_their_places_or_it_is_said_that_they_go(tmp_path: Path) -> None:
    path = tmp_path / "exp.json"
    path.write_text(COMMENTED_OLD)
    migration = Migration.of(path)
    assert migration.text == COMMENTED_NEW
    assert [(slip.line, slip.what) for slip in migration.slips] == [(19, 'a comment after "#"')]
    assert [(change.line, change.what) for change in migration.changes] == [
        (7, '"cwd" becomes "workingdir"'),
        (16, '"resource_args.async_run" goes: Ray does what it was for'),
        (16, "a comment goes with what it is about: // goes"),
    ]
    path.write_text(COMMENTED_NEW.replace("[", "[ /* not to be laid out anew */ "))
    assert Migration.of(path).text == path.read_text()


@pytest.mark.parametrize("text", ["{}", '{"a": 1}', '{\n\t"a": [\n\t\t1,\n\t\t{"b": []}\n\t]\n}'])
def test_the_layout_is_that_of_the_source(text: str) -> None:
    found = read(text)
    assert laid_out(found.value, found, text).text == text + "\n"


def test_what_is_mended_is_json_and_says_what_was_read() -> None:
    rng = random.Random(1)
    mended = 0
    for _ in range(3000):
        text = list(OLD)
        for _ in range(rng.randint(1, 4)):
            place, new = rng.randrange(len(text)), rng.choice("{}[](),:=\"'\\#/\nnN0.-tx ")
            text[place : place + rng.randint(0, 1)] = rng.choice(["", new])
        found = read("".join(text))
        if found.sure:
            mended += 1
            again = read(laid_out(found.value, found, "".join(text)).text)
            assert (again.flaws, again.value) == ([], found.value)
    assert mended > 300


@pytest.mark.parametrize(
    "slip",
    [
        *('"n_samples": 5, "n_samples": 6', '"n_samples": ', '"n_samples": NaN', '"name2": "x'),
        *('"n_samples": [5', '"n_samples": 5)', '"n_samples": "\\ud800"'),
    ],
)
def test_what_may_mean_several_things_is_told_as_a_mistake(slip: str, tmp_path: Path) -> None:
    path = write(tmp_path)
    path.write_text(path.read_text().rstrip("}\n") + "}]}," + slip + "}")
    with pytest.raises(ExperimentError) as by_load:
        Experiment.load(path)
    with pytest.raises(ExperimentError) as by_migration:
        Migration.of(path)
    assert by_migration.value.problems == by_load.value.problems


def test_a_slip_beside_a_mistake_is_told_with_it(tmp_path: Path) -> None:
    path = write(tmp_path, proposer="bob")
    path.write_text(path.read_text().replace('"old"', "'old'"))
    with pytest.raises(ExperimentError) as caught:
        Migration.of(path)
    assert [problem.where.partition(":")[2] for problem in caught.value.problems] == ["2  name", "25  proposer"]


def advice(folder: Path, **keys: Any) -> dict[str, str]:
    return {one.path: one.write for one in Migration.of(write(folder, **keys)).advice}


def test_advice_on_how_many_trials(tmp_path: Path) -> None:
    quiet = {"random_seed": 1, "n_parallel": 2, "job_failure": {}, "compression": {"slice": "before"}}
    assert '"n_samples": 143 fills every bracket' in advice(tmp_path, proposer="hyperband", n_samples=5)["n_samples"]
    assert advice(tmp_path, proposer="hyperband", n_samples=143, **quiet) == {}
    fitting = advice(tmp_path, proposer="sequence", n_samples=5, **quiet)
    assert fitting == {"n_samples": "remove it for the whole grid, 25 points"}
    assert advice(tmp_path, proposer="sequence", n_samples=25, **quiet) == {}
    assert "first 10 points" in advice(tmp_path, proposer="sequence")["n_samples"]
    small = [{"sparsity": {"type": "choice", "range": [0.1, 0.5]}, "op_names": ["a"]}]
    assert "n_samples" not in advice(tmp_path, proposer="sequence", config_list=small)


def test_advice_on_dimensions(tmp_path: Path) -> None:
    where = "compression.config_list[0]"
    by_type = {"sparsity": SEARCHED["sparsity"], "op_types": ["Conv2d"]}
    assert '"expand_op_names": false' in advice(tmp_path, config_list=[by_type])[f"{where}.op_types"]
    shared = {**SEARCHED, "expand_op_names": False}
    assert '"dependency"' in advice(tmp_path, config_list=[shared])[f"{where}.expand_op_names"]
    for entry in ({**shared, "op_names": ["conv1"]}, SEARCHED, {**shared, "expand_op_names": "dependency"}):
        assert not [path for path in advice(tmp_path, config_list=[entry]) if path.startswith(where)]
    level = {"compressor": "level"}
    assert f"{where}.expand_op_names" not in advice(tmp_path, config_list=[shared], compression=level)


def test_advice_on_the_rest(tmp_path: Path) -> None:
    told = advice(tmp_path, resource_args={"save_model": True})
    left_out = ["n_parallel", "random_seed", "job_failure"]
    assert list(told) == ["resource_args.save_model", "compression.slice", "proposer", *left_out]
    for proposer in ("random", "hyperopt", "spearmint"):
        assert advice(tmp_path, proposer=proposer)["proposer"] == '"proposer": "optuna"'
    training = {"compressor": "admm"}  # which cannot be sliced before
    assert advice(tmp_path, proposer="optuna", random_seed=1, n_parallel=2, job_failure={}, compression=training) == {}
    assert advice(tmp_path, config_list=[{"sparsity": 0.5, "op_names": ["a"]}]) == {}  # one-time: nothing is searched


def test_what_advice_says_can_be_written(tmp_path: Path) -> None:
    """Every line of JSON that is suggested loads."""
    for key, text in advice(tmp_path, proposer="bohb").items():
        if text.startswith('"'):
            value, _ = json.JSONDecoder().raw_decode(text.partition(": ")[2])
            group, _, inner = key.rpartition(".")
            check(write(tmp_path, **{"proposer": "bohb", **({group: {inner: value}} if group else {key: value})}))


def test_every_row_of_a_value_is_found() -> None:
    row = old_key(("proposer",), "bohb")
    assert row is not None and "raycompress[bohb]" in row.became
    assert old_key(("compression", "config_list", 3, "sparsity"), 0.5) is not None
    assert old_key(("compression", "config_list"), []).fate == "read as"  # type: ignore[union-attr]
    assert old_key(("resource",), {"gpu": 1}) is None
    assert old_key(("storage",), "x") is None
