"""Grouped keys: masked and sliced decoders write the same words; ``python -m tests.zoo.generating`` prints a line each.

Whole groups of heads go, the dimensions that positions rotate stay, and a cache of keys and values is narrower by the
heads that went.
"""

from __future__ import annotations

import json
from typing import Any

import torch
from torch import Tensor, nn

from raycompress import create_compressor
from raycompress.compressors.measure.difference import relative_difference
from tests.zoo.cell import randomize
from tests.zoo.networks.from_transformers import DECODERS, EXPERT_DECODERS

NETWORKS = (
    "LlamaForCausalLM",
    "MistralForCausalLM",
    "Qwen3ForCausalLM",
    "GemmaForCausalLM",
    "MixtralForCausalLM",
)
LENGTH = 20
HEAD_DIM = 16
WHOLE, LEFT = (8, 4), (4, 2)
"""Heads of queries and of keys, before and after."""


def main() -> None:
    """Print a line of JSON for each network."""
    torch.set_num_threads(1)
    for name in NETWORKS:
        print(json.dumps({"network": name, **generated(name)}), flush=True)


def built(name: str) -> nn.Module:
    """Return the network, with weights large enough that it does not write one word for ever."""
    import transformers

    torch.manual_seed(0)
    keys = {**DECODERS, **EXPERT_DECODERS}[name]
    heads = {"num_attention_heads": WHOLE[0], "num_key_value_heads": WHOLE[1], "head_dim": HEAD_DIM}
    kind = getattr(transformers, name)
    made: nn.Module = kind(kind.config_class(**{**keys, **heads, "initializer_range": 0.3, "eos_token_id": None}))
    randomize(made)
    return made.eval()


def generated(name: str) -> dict[str, Any]:
    """Return how far the logits of the sliced model are from the masked one's, and whether both write the same."""
    model = built(name)
    tokens = torch.randint(3, 96, (2, 12), generator=torch.Generator().manual_seed(0))
    entries = [{"sparsity": 0.5, "op_types": ["default"]}]
    config = {"compressor": "group_l1", "config_list": entries, "arguments": {"round_to": 1}}
    compressor = create_compressor(model, config, dummy_input={"input_ids": tokens})
    compressor.compress()
    masked, written = _logits(model, tokens), _written(model, tokens)
    small: Any = compressor.apply_speedup()
    again = _written(small, tokens)
    attention = small.model.layers[0].self_attn
    return {
        "difference": relative_difference([masked], [_logits(small, tokens)]),
        "same": torch.equal(written, again),
        "cached": torch.equal(again, _written(small, tokens, use_cache=False)),
        "words": len(again[:, tokens.size(1) :].unique()),
        "queries": attention.q_proj.out_features // HEAD_DIM,
        "keys": attention.k_proj.out_features // HEAD_DIM,
        "rotated": attention.head_dim,
    }


@torch.no_grad()
def _logits(model: Any, tokens: Tensor) -> Tensor:
    found: Tensor = model(input_ids=tokens).logits
    return found


@torch.no_grad()
def _written(model: Any, tokens: Tensor, *, use_cache: bool = True) -> Tensor:
    settings = {"max_new_tokens": LENGTH, "min_new_tokens": LENGTH, "do_sample": False, "pad_token_id": 0}
    found: Tensor = model.generate(input_ids=tokens, use_cache=use_cache, **settings)
    return found


if __name__ == "__main__":
    main()
