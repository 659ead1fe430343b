from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raycompress.catalog import find
from raycompress.config.dimension import Dimension
from raycompress.config.experiment import Experiment
from raycompress.config.schema.ranges import find_ranges
from raycompress.config.search_space import SearchSpace
from tests.support.experiments import experiment_with, layer, network

Load = Callable[..., Experiment]
FLOAT = {"type": "float", "range": [0.1, 0.9]}
FILTER = find("l1_filter")
assert FILTER is not None
MODEL = network(
    layer("conv1", channels=8),
    layer("bn1", "BatchNorm2d", 8),
    layer("conv2"),
    layer("conv3"),
    layer("conv4"),
    layer("fc", "Linear", 10),
    ties=(("conv2", "conv4"),),
)


def names(experiment: Experiment, model: Any = None) -> list[str]:
    return [dimension.name for dimension in SearchSpace.of(experiment, model).dimensions]


# ---- which dimensions there are


def test_a_layer_each(load: Load) -> None:
    experiment = load({"sparsity": FLOAT, "op_names": ["conv1", "conv2"]})
    space = SearchSpace.of(experiment)
    assert [dimension.name for dimension in space.dimensions] == ["conv1.sparsity", "conv2.sparsity"]
    assert space.dimensions[0] == Dimension("conv1.sparsity", "float", 0.1, 0.9)
    assert space.build({"conv1.sparsity": 0.25, "conv2.sparsity": 0.5})["config_list"] == [
        {"sparsity": 0.25, "op_names": ["conv1"]},
        {"sparsity": 0.5, "op_names": ["conv2"]},
    ]


@pytest.mark.parametrize(
    ("selection", "name"),
    [
        ({"op_names": ["conv1", "conv2"]}, "[conv1,conv2].sparsity"),
        ({"op_names": ["conv1"]}, "conv1.sparsity"),
        ({"op_types": ["Conv2d"]}, "[Conv2d].sparsity"),
        ({"op_types": ["Conv2d", "Linear"]}, "[Conv2d,Linear].sparsity"),
    ],
)
def test_a_group_is_one_dimension(selection: dict[str, Any], name: str, load: Load) -> None:
    experiment = load({"sparsity": FLOAT, "expand_op_names": False, **selection})
    assert not SearchSpace.needs_model(experiment)
    space = SearchSpace.of(experiment)
    assert [dimension.name for dimension in space.dimensions] == [name]
    assert space.build({name: 0.3})["config_list"] == [{"sparsity": 0.3, **selection}]


def test_types_expand_over_the_layers_that_no_later_entry_rules(load: Load) -> None:
    experiment = load(
        {"sparsity": FLOAT, "op_types": ["default"]},
        {"sparsity": 0.2, "op_names": ["conv3"]},
        {"exclude": True, "op_names": ["conv4"]},
    )
    assert SearchSpace.needs_model(experiment)
    with pytest.raises(ValueError, match="layers of the model"):
        SearchSpace.of(experiment)
    assert names(experiment, MODEL) == ["conv1.sparsity", "conv2.sparsity"]  # l1_filter's default is Conv2d
    assert SearchSpace.of(experiment, MODEL).build({"conv1.sparsity": 0.3, "conv2.sparsity": 0.4})["config_list"] == [
        {"sparsity": 0.3, "op_types": ["default"], "op_names": ["conv1"]},
        {"sparsity": 0.4, "op_types": ["default"], "op_names": ["conv2"]},
        {"sparsity": 0.2, "op_names": ["conv3"]},
        {"exclude": True, "op_names": ["conv4"]},
    ]


def test_default_is_every_weighted_layer_for_level(load: Load) -> None:
    experiment = load({"sparsity": FLOAT, "op_types": ["default"]}, compression={"compressor": "level"})
    assert names(experiment, MODEL) == [f"{name}.sparsity" for name in ("conv1", "conv2", "conv3", "conv4", "fc")]


def test_a_name_that_a_later_entry_rules_makes_no_dimension(load: Load) -> None:
    experiment = load({"sparsity": FLOAT, "op_names": ["conv1", "conv2"]}, {"exclude": True, "op_names": ["conv2"]})
    assert names(experiment) == names(experiment, MODEL) == ["conv1.sparsity"]
    by_type = load({"sparsity": FLOAT, "op_names": ["conv1", "fc"]}, {"exclude": True, "op_types": ["Linear"]})
    assert names(by_type, MODEL) == ["conv1.sparsity"]


def test_blocks_that_are_to_stay_alike_share_their_dimensions(load: Load) -> None:
    parts = ("attn.q", "attn.k", "mlp")
    layers = [layer(f"blocks.{at}.{part}", "Linear") for at in (0, 1) for part in parts]
    ties = tuple((f"blocks.{at}.attn.q", f"blocks.{at}.attn.k") for at in (0, 1))
    compression = {"compressor": "group_l1", "arguments": {"uniform": True, "round_to": 1}}
    entry = {"sparsity": FLOAT, "op_types": ["Linear"]}
    alone = SearchSpace.of(load(entry, compression=compression), network(*layers, ties=ties))
    assert [one.name for one in alone.dimensions] == [f"blocks.*.{part}.sparsity" for part in parts]
    assert alone.build(dict.fromkeys((one.name for one in alone.dimensions), 0.5))["config_list"][2]["op_names"] == [
        "blocks.0.mlp",
        "blocks.1.mlp",
    ]
    tied = load({**entry, "expand_op_names": "dependency"}, compression=compression)
    assert names(tied, network(*layers, ties=ties)) == [
        "[blocks.*.attn.q,blocks.*.attn.k].sparsity",
        "blocks.*.mlp.sparsity",
    ]


def test_dependency_is_one_dimension_for_tied_layers(load: Load) -> None:
    experiment = load({"sparsity": FLOAT, "op_types": ["Conv2d"], "expand_op_names": "dependency"})
    assert SearchSpace.needs_model(experiment)
    space = SearchSpace.of(experiment, MODEL)
    sample = {"conv1.sparsity": 0.1, "[conv2,conv4].sparsity": 0.2, "conv3.sparsity": 0.3}
    assert [dimension.name for dimension in space.dimensions] == list(sample)
    assert space.build(sample)["config_list"][1] == {
        "sparsity": 0.2,
        "op_types": ["Conv2d"],
        "op_names": ["conv2", "conv4"],
    }


@pytest.mark.parametrize("compressor", ["sensitivity", "net_adapt", "simulated_annealing", "auto_compress"])
@pytest.mark.parametrize("selection", [{"op_names": ["conv1", "conv3"]}, {"op_types": ["Conv2d"]}])
def test_what_spreads_one_sparsity_over_all_layers_has_one_dimension(
    compressor: str, selection: dict[str, Any], load: Load
) -> None:
    experiment = load({"sparsity": FLOAT, **selection}, compression={"compressor": compressor})
    (name,) = names(experiment, MODEL)
    assert names(experiment) == [name]
    assert SearchSpace.of(experiment, MODEL).build({name: 0.3})["config_list"] == [{"sparsity": 0.3, **selection}]


def test_the_rounds_of_the_lottery_are_the_same_for_all_layers(load: Load) -> None:
    entry = {"prune_iterations": {"type": "int", "range": [1, 3]}, "sparsity": FLOAT, "op_names": ["conv1", "fc"]}
    space = SearchSpace.of(load(entry, compression={"compressor": "lottery_ticket"}), MODEL)
    sample = {"[conv1,fc].prune_iterations": 2, "conv1.sparsity": 0.25, "fc.sparsity": 0.5}
    assert [dimension.name for dimension in space.dimensions] == list(sample)
    assert space.build(sample)["config_list"] == [
        {"prune_iterations": 2, "sparsity": 0.25, "op_names": ["conv1"]},
        {"prune_iterations": 2, "sparsity": 0.5, "op_names": ["fc"]},
    ]


def test_arguments_and_parameters_are_dimensions_too(load: Load) -> None:
    experiment = load(
        compression={"arguments": {"dependency_aware": {"type": "choice", "range": [True, False]}}},
        parameter_config=[{"name": "epochs", "type": "int", "range": [1, 3]}],
    )
    space = SearchSpace.of(experiment)
    assert space.dimensions == (
        Dimension("arguments.dependency_aware", "choice", choices=(True, False)),
        Dimension("epochs", "int", 1, 3),
    )
    built = space.build({"arguments.dependency_aware": True, "epochs": 2})
    assert (built["arguments"], built["parameters"]) == ({"dependency_aware": True}, {"epochs": 2})


def test_a_nested_key_is_joined_by_dots() -> None:
    entry = {"quant_types": ["weight"], "quant_bits": {"weight": {"type": "int", "range": [2, 8]}}, "op_names": ["c"]}
    assert [path for path, _ in find_ranges(entry)] == [("quant_bits", "weight")]
    from raycompress.config.search_space import _Names, _with_slots

    names = _Names()
    template = _with_slots(entry, "c", "config_list[0]", names)
    assert [dimension.name for dimension in names.dimensions] == ["c.quant_bits.weight"]
    assert template["quant_types"] == ["weight"]


def test_a_name_that_is_taken_gets_another(load: Load) -> None:
    group = {"sparsity": FLOAT, "op_types": ["Conv2d"], "expand_op_names": False}
    experiment = load(
        group,
        group,
        group,
        parameter_config=[{"name": "[Conv2d].sparsity", **FLOAT}],
    )
    assert names(experiment) == [
        "[Conv2d].sparsity",
        "config_list[1].[Conv2d].sparsity",
        "config_list[2].[Conv2d].sparsity",
        "parameter_config.[Conv2d].sparsity",
    ]


def test_one_time(load: Load) -> None:
    experiment = load(n_samples=5)
    space = SearchSpace.of(experiment)
    assert (space.dimensions, space.centre(), list(space.grid()), space.grid_size) == ((), {}, [{}], 1)
    assert space.n_samples(experiment) == 1
    with pytest.raises(KeyError):
        SearchSpace.of(load({"sparsity": FLOAT, "op_names": ["conv1"]})).build({})


# ---- centre and grid


@pytest.mark.parametrize(
    ("dimension", "centre"),
    [
        (Dimension("x", "float", 0.2, 0.6), 0.4),
        (Dimension("x", "float", 0.0001, 0.01, log=True), 0.001),
        (Dimension("x", "int", 1, 4), 2),
        (Dimension("x", "int", 1, 100, log=True), 10),
        (Dimension("x", "int", 10**17, 10**17 + 2), 10**17 + 1),
        (Dimension("x", "choice", choices=("b", "a")), "b"),
    ],
)
def test_centre(dimension: Dimension, centre: Any) -> None:
    assert dimension.centre() == pytest.approx(centre, rel=1e-12) if isinstance(centre, float) else centre
    assert type(dimension.centre()) is type(centre)


@pytest.mark.parametrize(
    ("dimension", "values"),
    [
        (Dimension("x", "float", 0.1, 0.9, interval=0.2), [0.1, 0.3, 0.5, 0.7, 0.9]),
        (Dimension("x", "float", 0.1, 0.9, interval=0.3), [0.1, 0.4, 0.7]),
        (Dimension("x", "float", 0.0, 1.0, n=5), [0.0, 0.25, 0.5, 0.75, 1.0]),
        (Dimension("x", "float", 0.001, 0.1, log=True, n=3), [0.001, 0.01, 0.1]),
        (Dimension("x", "int", 1, 4), [1, 2, 3, 4]),
        (Dimension("x", "int", 1, 4, log=True), [1, 2, 3, 4]),
        (Dimension("x", "int", 1, 9, interval=3), [1, 4, 7]),
        (Dimension("x", "int", 1, 9, n=3), [1, 5, 9]),
        (Dimension("x", "int", 1, 3, n=9), [1, 2, 3]),
        (Dimension("x", "int", 1, 64, log=True, n=4), [1, 4, 16, 64]),
        (Dimension("x", "int", 1, 6, log=True, n=5), [1, 2, 3, 4, 6]),
        (Dimension("x", "choice", choices=("b", "a")), ["b", "a"]),
    ],
)
def test_grid_values(dimension: Dimension, values: list[Any]) -> None:
    found = [dimension.grid_value(index) for index in range(dimension.grid_size)]
    assert found == values
    assert [type(value) for value in found] == [type(value) for value in values]


def test_the_grid_is_lazy_and_whole(load: Load) -> None:
    experiment = load(
        {"sparsity": {**FLOAT, "interval": 0.4}, "op_names": ["conv1"]},
        parameter_config=[
            {"name": "a", "type": "int", "range": [1, 10**12]},
            {"name": "b", "type": "choice", "range": ["x", "y"]},
        ],
        proposer="sequence",
    )
    space = SearchSpace.of(experiment)
    assert space.grid_size == space.n_samples(experiment) == 3 * 10**12 * 2
    first = list(itertools.islice(space.grid(), 3))
    assert first == [
        {"conv1.sparsity": 0.1, "a": 1, "b": "x"},
        {"conv1.sparsity": 0.1, "a": 1, "b": "y"},
        {"conv1.sparsity": 0.1, "a": 2, "b": "x"},
    ]
    assert space.n_samples(load(*[dict(e) for e in experiment.compression.config_list], n_samples=4)) == 4


def test_fewer_points_than_samples_asked_for(load: Load) -> None:
    entry = {"sparsity": {**FLOAT, "n": 3}, "op_names": ["conv1", "conv2"]}
    experiment = load(entry, proposer="sequence", n_samples=100)
    space = SearchSpace.of(experiment)
    assert space.n_samples(experiment) == space.grid_size == 9


# ---- whatever the experiment


def shares() -> st.SearchStrategy[Any]:
    """A sparsity, or a search range of sparsities, all above 0 as NNI wants them."""
    share = st.floats(0.01, 0.99)
    pair = st.tuples(st.floats(0.01, 0.5), st.floats(0.51, 0.99))
    steps = st.sampled_from([{}, {"n": 3}, {"interval": 0.005}])
    ranged = st.builds(lambda ends, more: {"type": "float", "range": list(ends), **more}, pair, steps)
    logs = st.builds(lambda ends: {"type": "float", "range": list(ends), "log": True, "n": 4}, pair)
    choices = st.builds(lambda values: {"type": "choice", "range": values}, st.lists(share, min_size=1, max_size=3))
    return share | ranged | logs | choices


CONVS = ["conv1", "conv2", "conv3", "conv4"]


@st.composite
def entries(draw: st.DrawFn) -> dict[str, Any]:
    by_name = draw(st.booleans())
    names = draw(st.lists(st.sampled_from(CONVS), min_size=1, max_size=3, unique=True))
    selection = {"op_names": names} if by_name else {"op_types": ["Conv2d"]}
    if draw(st.integers(0, 4)) == 0:
        return {"exclude": True, **selection}
    expand = draw(st.sampled_from([{}, {"expand_op_names": False}, {"expand_op_names": "dependency"}]))
    return {"sparsity": draw(shares()), **selection, **expand}


@st.composite
def parameters(draw: st.DrawFn) -> list[dict[str, Any]]:
    kinds = [
        {"type": "int", "range": [1, draw(st.integers(2, 50))]},
        {"type": "choice", "range": [[1, 2], {"a": [3]}, "text", None]},
        {"type": "float", "range": [-1, draw(st.floats(0, 1e6))]},
    ]
    return [{"name": name, **draw(st.sampled_from(kinds))} for name in draw(st.sampled_from(["", "p", "pq"]))]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("experiment")


@st.composite
def samples(draw: st.DrawFn, space: SearchSpace) -> dict[str, Any]:
    """What any sampler may give: a value inside each dimension."""
    sample: dict[str, Any] = {}
    for dimension in space.dimensions:
        if dimension.choices is not None:
            sample[dimension.name] = draw(st.sampled_from(dimension.choices))
        else:
            assert dimension.low is not None and dimension.high is not None
            draws = st.integers if dimension.kind == "int" else st.floats
            sample[dimension.name] = draw(draws(dimension.low, dimension.high))  # type: ignore[operator]
    return sample


def containers(value: Any) -> Iterator[int]:
    if isinstance(value, (dict, list)):
        yield id(value)
        for inner in value.values() if isinstance(value, dict) else value:
            yield from containers(inner)


def inside(dimension: Dimension, value: Any) -> bool:
    if dimension.choices is not None:
        return value in dimension.choices
    assert dimension.low is not None and dimension.high is not None
    whole = isinstance(value, int) if dimension.kind == "int" else isinstance(value, float)
    return whole and dimension.low <= value <= dimension.high


@pytest.fixture(scope="module")
def nni_accepts() -> Callable[[Any], None]:
    """NNI's own check of a config_list, against a small model."""
    import torch
    from nni.algorithms.compression.pytorch.pruning import L1FilterPruner

    torch.set_num_threads(1)
    model = torch.nn.ModuleDict({name: torch.nn.Conv2d(4, 4, 1) for name in CONVS})
    checker = L1FilterPruner.__new__(L1FilterPruner)
    return lambda config_list: checker.validate_config(model, config_list)


@settings(max_examples=150, deadline=None)
@given(data=st.data(), config_list=st.lists(entries(), min_size=1, max_size=4), further=parameters())
def test_a_sample_becomes_a_plain_config_of_its_own(
    data: st.DataObject,
    config_list: list[Any],
    further: list[Any],
    folder: Path,
    nni_accepts: Callable[[Any], None],
) -> None:
    experiment = experiment_with(folder, config_list, parameter_config=further)
    before = json.dumps(experiment.compression.config_list)
    space = SearchSpace.of(experiment, MODEL)
    found = [dimension.name for dimension in space.dimensions]
    assert len(found) == len(set(found))

    sample = data.draw(samples(space))
    first, second = space.build(sample), space.build(sample)
    assert first == second
    nni_accepts(first["config_list"])
    assert list(find_ranges(first["config_list"])) == []
    assert all("expand_op_names" not in entry for entry in first["config_list"])
    assert set(first["parameters"]) == {parameter["name"] for parameter in further}

    ids = [*containers(first), *containers(second)]
    shared = {*containers(list(experiment.compression.config_list)), *containers(sample)}
    shared |= {identity for parameter in experiment.parameter_config for identity in containers(dict(parameter))}
    assert len(ids) == len(set(ids))
    assert not shared & set(ids)
    assert json.dumps(experiment.compression.config_list) == before

    centre = space.centre()
    assert all(inside(dimension, centre[dimension.name]) for dimension in space.dimensions)
    space.build(centre)


@settings(max_examples=100, deadline=None)
@given(
    st.sampled_from(["float", "int"]),
    st.integers(1, 1000),
    st.integers(1, 1000),
    st.booleans(),
    st.sampled_from(["n", "interval"]),
    st.integers(2, 40),
)
def test_a_grid_is_inside_its_range_ascending_and_as_large_as_said(
    kind: Any, low: int, width: int, log: bool, step: str, n: int
) -> None:
    scale = 1 if kind == "int" else 0.001
    log = log and step == "n"
    interval = None if step == "n" else max(width // n, 1) * scale
    ends = (low * scale, (low + width) * scale)
    dimension = Dimension("x", kind, *ends, log=log, interval=interval, n=n if step == "n" else None)
    values = [dimension.grid_value(index) for index in range(dimension.grid_size)]
    assert all(inside(dimension, value) for value in values)
    assert all(one < next_one for one, next_one in itertools.pairwise(values))
    assert values[0] == ends[0]
    if step == "n":
        assert values[-1] == ends[1]
    else:
        assert interval is not None and ends[1] - values[-1] < interval * (1 + 1e-6)


def test_a_float_without_steps_has_no_grid() -> None:
    with pytest.raises(ValueError, match="neither interval nor n"):
        _ = Dimension("x", "float", 0.0, 1.0).grid_size
    assert math.isclose(Dimension("x", "float", 0.0, 1.0).centre(), 0.5)


# ---- which layers are ruled, against NNI itself


@settings(max_examples=100, deadline=None)
@given(st.lists(entries(), min_size=1, max_size=4))
def test_the_entry_that_rules_a_layer_is_the_one_nni_selects(config_list: list[Any]) -> None:
    from nni.compression.pytorch.compressor import Compressor, LayerInfo

    from raycompress.config.matching import ruled

    class Named:
        pass

    nni = Compressor.__new__(Compressor)
    nni.config_list = [{**entry, "index": index} for index, entry in enumerate(config_list)]
    for one in MODEL.layers:
        info = LayerInfo(one.name, Named())
        info.type = one.type
        selected = nni.select_config(info)
        ours = [index for index in range(len(config_list)) if one in ruled(config_list, index, MODEL, FILTER)]
        expected = [index for index in ours if "exclude" not in config_list[index]]
        assert expected == ([] if selected is None else [selected["index"]])
