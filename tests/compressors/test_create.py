"""create_compressor: what it takes, and what it says to mistakes."""

from __future__ import annotations

import logging
import subprocess
import sys
from typing import Any

import pytest
import torch

from raycompress import create_compressor
from raycompress.catalog import CATALOG, find, names
from raycompress.errors import ExperimentError, UsageError
from tests.support.models.networks import CONVOLUTIONS, DUMMY, Cnn, ResNet


def said(config: dict[str, Any], **more: Any) -> str:
    with pytest.raises(ExperimentError) as caught:
        create_compressor(Cnn(), {"config_list": CONVOLUTIONS, **config}, **more)
    return str(caught.value)


def test_unknown_names() -> None:
    assert 'did you mean "l1_filter"?' in said({"compressor": "l1_fliter"})
    assert 'l1_filter takes no argument "dependency_awre"' in said({"compressor": "l1_filter"}, dependency_awre=True)
    assert 'takes no argument "scale"' in said({"compressor": "level", "arguments": {"scale": 1}})
    assert len({(entry.framework, entry.name) for entry in CATALOG}) == len(CATALOG)
    assert find("level") is not None
    assert find("no such") is None


def test_all_mistakes_of_a_config_list_at_once() -> None:
    message = said(
        {
            "compressor": "l1_filter",
            "config_list": [
                {"sparsity": 0.5, "op_names": ["conv_1"]},
                {"sparsty": 0.5, "op_types": ["Conv2d"]},
                {"sparsity": 1.0, "op_types": ["Conv2d"]},
                {"sparsity": 0.5},
            ],
        }
    )
    for part in ('no layer "conv_1"', 'did you mean "conv1"', 'did you mean "sparsity"', "not 1.0", "needs op_types"):
        assert part in message
    assert "l1_filter takes Conv2d only" in said(
        {"compressor": "l1_filter", "config_list": [{"sparsity": 0.5, "op_types": ["Conv2d", "Linear"]}]}
    )
    assert "matches no layer" in said(
        {"compressor": "slim", "config_list": [{"sparsity": 0.5, "op_types": ["BatchNorm2d"]}]}
    )
    assert "config_list is empty" in said({"compressor": "level", "config_list": []})


def test_the_last_entry_that_matches_rules() -> None:
    config_list = [
        {"sparsity": 0.25, "op_types": ["Conv2d"]},
        {"sparsity": 0.5, "op_names": ["layer1.0.conv1"], "expand_op_names": False},
        {"exclude": True, "op_names": ["layer2.0.conv1"]},
    ]
    pruner = create_compressor(ResNet(), {"compressor": "l1_filter", "config_list": config_list})
    targets = pruner._targets  # type: ignore[attr-defined]
    assert targets["layer1.0.conv1"].sparsity == 0.5
    assert targets["conv1"].sparsity == 0.25
    assert "layer2.0.conv1" not in targets


def test_old_calling_conventions_are_taken() -> None:
    model = ResNet()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def main(compressor: str, config_list: list[Any], **other: Any) -> Any:
        config = locals()
        return create_compressor(model, config, optimizer, dependency_aware=False, dummy_input=DUMMY, criterion=None)

    pruner = main("l1_filter", CONVOLUTIONS, arguments={"dependency_aware": True}, save_model=True)
    assert pruner._arguments["dependency_aware"] is True  # the file wins
    with pytest.raises(UsageError, match="by position"):
        create_compressor(model, {"compressor": "level", "config_list": CONVOLUTIONS}, 1, 2)


def test_nni_leaves_logging_and_tensorflow_alone() -> None:
    from raycompress.compressors.engines.nni.library import load_nni

    load_nni()
    assert sys.modules.get("tensorflow", ...) is not None
    assert not logging.getLogger("nni").handlers


def test_the_catalogue_and_its_command_load_no_torch() -> None:
    program = (
        "import sys; from raycompress.cli.main import main\n"
        "try: main(['compressors'])\nexcept SystemExit as stop: assert not stop.code\n"
        "try: main(['compressors', 'slim'])\nexcept SystemExit as stop: assert not stop.code\n"
        "assert not {'torch', 'nni', 'ray'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert all(len(line) <= 80 for line in done.stdout.splitlines())
    assert all(name in done.stdout for name in names())
    assert "sparsifying_training_epochs (default 10)" in done.stdout
    wrong = subprocess.run(
        [sys.executable, "-m", "raycompress", "compressors", "l1"], capture_output=True, text=True, check=False
    )
    assert wrong.returncode == 2
    assert "unknown compressor" in wrong.stderr
