"""Compressed models of transformers load without raycompress: by their config, else by code beside them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import raycompress as rc
from raycompress.errors import CompressionError, UsageError
from tests.support.models import text

transformers = pytest.importorskip("transformers")

UNEVEN = ["model.layers.0.mlp.gate_proj", "model.layers.0.mlp.up_proj"]
LOADED = """
import json, sys
sys.modules["raycompress"] = None  # importing it is an error
import torch, transformers
for folder, auto, trusts in json.loads(sys.argv[1]):
    model = getattr(transformers, auto).from_pretrained(folder, trust_remote_code=trusts).eval()
    inputs, logits, tokens = torch.load(folder + "/expected.pt")
    assert torch.equal(model(**inputs).logits, logits), folder
    if tokens is not None:
        assert torch.equal(model.generate(**inputs, max_new_tokens=6, do_sample=False), tokens), folder
    print(type(model).__name__)
"""


def compressed(model, folder: Path, **layers):
    return rc.compress(model, text.INPUT, "group_l1", 0.5, round_to=1, folder=folder / "bundle", **layers).model


def with_expected(model, folder: Path) -> str:
    generates = {"max_new_tokens": 6, "do_sample": False}
    tokens = model.generate(**text.INPUT, **generates) if model.can_generate() else None
    with torch.no_grad():
        torch.save((text.INPUT, model.eval()(**text.INPUT).logits, tokens), folder / "expected.pt")
    return str(folder)


def test_a_process_without_raycompress_loads_them_and_they_compute_the_same(tmp_path: Path) -> None:
    from raycompress.integrations.transformers import save_pretrained

    small = {"llama": compressed(text.llama(), tmp_path), "bert": compressed(text.bert(), tmp_path)}
    small["uneven"] = compressed(text.llama(), tmp_path, op_names=UNEVEN)
    autos = {"llama": "AutoModelForCausalLM", "bert": "AutoModelForMaskedLM", "uneven": "AutoModelForCausalLM"}
    saved = {name: save_pretrained(model, tmp_path / name, text.INPUT) for name, model in small.items()}
    assert {name: one.is_stock for name, one in saved.items()} == {"llama": True, "bert": True, "uneven": False}
    asked = [[with_expected(model, tmp_path / name), autos[name], name == "uneven"] for name, model in small.items()]
    done = subprocess.run(
        [sys.executable, "-c", LOADED, json.dumps(asked)],
        capture_output=True,
        text=True,
        env={**os.environ, "HF_HOME": str(tmp_path / "home"), "OMP_NUM_THREADS": str(torch.get_num_threads())},
    )
    assert done.stdout.split() == ["LlamaForCausalLM", "BertForMaskedLM", "NarrowedLlamaForCausalLM"], done.stderr


def test_config_json_says_the_new_sizes(tmp_path: Path) -> None:
    from raycompress.integrations.transformers import save_pretrained

    dense = text.llama()
    small = compressed(dense, tmp_path)
    saved = save_pretrained(small, tmp_path / "small", text.INPUT)
    halves = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2}
    assert saved.changed == {name: (size, size // 2) for name, size in halves.items()}
    written = json.loads((tmp_path / "small" / "config.json").read_text())
    assert written["head_dim"] == 8 and "narrowed" not in written
    assert {name: written[name] for name in halves} == {name: size // 2 for name, size in halves.items()}
    assert small.config.intermediate_size == 24
    assert dense.config.intermediate_size == 48


def test_a_model_of_fewer_layers_says_how_many(tmp_path: Path) -> None:
    from raycompress.integrations.transformers import save_pretrained

    short = text.llama(num_hidden_layers=3)
    del short.model.layers[2]
    saved = save_pretrained(short, tmp_path / "short", text.INPUT)
    assert saved.is_stock and saved.changed == {"num_hidden_layers": (3, 2)}


def qwen2():
    """Return a Qwen2ForCausalLM with heads of 16; its config has no head_dim, but a list as long as keys have heads."""
    torch.manual_seed(0)
    sizes = {**text.SIZES, "hidden_size": 64, "num_key_value_heads": 2, "intermediate_size": 48}
    return transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**sizes)).eval()


@pytest.mark.parametrize("head_dim", [None, 16])
def test_heads_go_where_the_config_has_no_field_for_their_width(tmp_path: Path, head_dim: int | None) -> None:
    from raycompress.integrations.transformers import save_pretrained

    attention = [f"model.layers.{at}.self_attn.{part}_proj" for at in (0, 1) for part in "qkv"]
    layers = {} if head_dim is None else {"op_names": attention}  # alone: hidden_size no longer says how wide they are
    saved = save_pretrained(compressed(qwen2(), tmp_path, **layers), tmp_path / "small", text.INPUT)
    assert saved.is_stock
    assert {"num_attention_heads": (4, 2), "num_key_value_heads": (2, 1)}.items() <= saved.changed.items()
    assert json.loads((tmp_path / "small" / "config.json").read_text()).get("head_dim") == head_dim


def test_a_number_of_heads_that_the_config_refuses_goes_by_code(tmp_path: Path) -> None:
    """LlamaConfig wants a hidden_size that is a multiple of it."""
    from raycompress.integrations.transformers import save_pretrained

    attention = [f"model.layers.{at}.self_attn.{part}_proj" for at in (0, 1) for part in "qkv"]
    dense, places = text.llama(num_key_value_heads=4), {"folder": tmp_path / "bundle", "op_names": attention}
    small = rc.compress(dense, text.INPUT, "group_l1", 0.25, round_to=1, **places).model
    assert small.model.layers[0].self_attn.q_proj.out_features == 24
    assert not save_pretrained(small, tmp_path / "small", text.INPUT).is_stock


def test_heads_that_a_config_cannot_say_are_narrowed_by_readable_code(tmp_path: Path) -> None:
    """BERT's heads are as wide as hidden_size over their number: with the one kept, the other cannot change."""
    from raycompress.integrations.transformers import save_pretrained

    places = [f"bert.encoder.layer.{at}.attention.self.{part}" for at in (0, 1) for part in ("query", "key", "value")]
    small = compressed(text.bert(), tmp_path, op_names=places)
    saved = save_pretrained(small, tmp_path / "small", text.INPUT)
    assert not saved.is_stock and "trust_remote_code=True" in str(saved)
    written = json.loads((tmp_path / "small" / "config.json").read_text())
    assert written["auto_map"] == {"AutoModelForMaskedLM": "modeling_narrowed.NarrowedBertForMaskedLM"}
    assert written["narrowed"][places[0]]["tensors"] == {"weight": [16, 32], "bias": [16]}
    code = (tmp_path / "small" / "modeling_narrowed.py").read_text()
    assert len(code.splitlines()) < 50
    assert "import raycompress" not in code


def test_a_folder_is_left_as_it_was_where_the_model_cannot_be_saved(tmp_path: Path) -> None:
    from raycompress.integrations.transformers import save_pretrained

    mine = type("Mine", (transformers.LlamaForCausalLM,), {})
    small = compressed(mine(text.llama().config), tmp_path, op_names=UNEVEN)
    with pytest.raises(CompressionError, match="a class that transformers has not") as caught:
        save_pretrained(small, tmp_path / "small", text.INPUT)
    assert '"uniform": true' in caught.value.problems[0].fix
    assert [one.name for one in tmp_path.iterdir()] == ["bundle"]
    with pytest.raises(UsageError, match="Linear is no PreTrainedModel"):
        save_pretrained(torch.nn.Linear(2, 2), tmp_path / "small", torch.ones(1, 2))
