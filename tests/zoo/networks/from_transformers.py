"""Architectures of transformers, small and with random weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from tests.zoo.networks.network import Network, images

SMALL = {
    "vocab_size": 96,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
}
GROUPED = {**SMALL, "num_key_value_heads": 2}
EXPERTS = {**GROUPED, "moe_intermediate_size": 32, "num_experts": 4, "num_experts_per_tok": 2}
SEQ2SEQ = {
    "vocab_size": 96, "d_model": 64, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 128, "decoder_ffn_dim": 128,
}  # fmt: skip
VISION = {**SMALL, "image_size": 32, "patch_size": 8}
AUDIO = {
    **SMALL, "conv_dim": (32, 32), "conv_stride": (5, 2), "conv_kernel": (10, 3), "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4, "mask_time_prob": 0.0,
}  # fmt: skip
T5 = {"vocab_size": 96, "d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 2, "num_heads": 4}
IDS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}

ENCODERS: dict[str, dict[str, Any]] = {
    "BertForSequenceClassification": SMALL,
    "RobertaModel": SMALL,
    "DistilBertModel": {"vocab_size": 96, "dim": 64, "n_layers": 2, "n_heads": 4, "hidden_dim": 128},
    "AlbertModel": {**SMALL, "embedding_size": 32},
    "ElectraModel": {**SMALL, "embedding_size": 32},
    "MPNetModel": SMALL,
    "DebertaV2Model": {**SMALL, "relative_attention": True, "position_biased_input": False,
                       "pos_att_type": ["p2c", "c2p"]},
    "XLNetModel": {"vocab_size": 96, "d_model": 64, "n_layer": 2, "n_head": 4, "d_inner": 128},
    "ModernBertModel": {**SMALL, **IDS, "cls_token_id": 1, "sep_token_id": 2},
}  # fmt: skip
DECODERS: dict[str, dict[str, Any]] = {
    "GPT2LMHeadModel": {"vocab_size": 96, "n_embd": 64, "n_layer": 2, "n_head": 4},
    "GPTNeoXForCausalLM": SMALL,
    "GPTJForCausalLM": {"vocab_size": 96, "n_embd": 64, "n_layer": 2, "n_head": 4, "rotary_dim": 8},
    "OPTForCausalLM": {**SMALL, "ffn_dim": 128, "word_embed_proj_dim": 64},
    "BloomForCausalLM": {"vocab_size": 96, "hidden_size": 64, "n_layer": 2, "n_head": 4},
    "LlamaForCausalLM": GROUPED,
    "MistralForCausalLM": GROUPED,
    "Qwen2ForCausalLM": GROUPED,
    "Qwen3ForCausalLM": {**GROUPED, "head_dim": 16},
    "GemmaForCausalLM": {**GROUPED, "head_dim": 16},
    "Gemma2ForCausalLM": {**GROUPED, "head_dim": 16},
    "Gemma3ForCausalLM": {**GROUPED, "head_dim": 16},
    "PhiForCausalLM": SMALL,
    "Phi3ForCausalLM": {**GROUPED, **IDS},
    "FalconForCausalLM": SMALL,
    "Starcoder2ForCausalLM": GROUPED,
    "CohereForCausalLM": GROUPED,
    "Olmo2ForCausalLM": GROUPED,
    "SmolLM3ForCausalLM": {**GROUPED, **IDS},
    "GraniteForCausalLM": GROUPED,
}
EXPERT_DECODERS: dict[str, dict[str, Any]] = {
    "MixtralForCausalLM": {**GROUPED, "num_local_experts": 4},
    "Qwen2MoeForCausalLM": {**EXPERTS, "shared_expert_intermediate_size": 48},
    "Qwen3MoeForCausalLM": {**EXPERTS, "head_dim": 16},
    "OlmoeForCausalLM": EXPERTS,
    "DeepseekV3ForCausalLM": {**SMALL, "num_key_value_heads": 4, "moe_intermediate_size": 32, "n_routed_experts": 4,
                              "num_experts_per_tok": 2, "n_group": 2, "topk_group": 1, "q_lora_rank": 32,
                              "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 16,
                              "first_k_dense_replace": 1},
}  # fmt: skip
STATE_SPACE: dict[str, dict[str, Any]] = {
    "MambaForCausalLM": {"vocab_size": 96, "hidden_size": 64, "num_hidden_layers": 2, "state_size": 8},
    "Mamba2ForCausalLM": {"vocab_size": 96, "hidden_size": 64, "num_hidden_layers": 2, "state_size": 8, "num_heads": 8,
                          "head_dim": 16, "n_groups": 2, "chunk_size": 8},
    "RwkvForCausalLM": {"vocab_size": 96, "hidden_size": 64, "num_hidden_layers": 2, "attention_hidden_size": 64,
                         "rescale_every": 0},
    "RecurrentGemmaForCausalLM": {**GROUPED, "lru_width": 64, "block_types": ("recurrent", "attention")},
}  # fmt: skip
PAIRS: dict[str, dict[str, Any]] = {
    "T5ForConditionalGeneration": T5,
    "MT5ForConditionalGeneration": {**T5, "feed_forward_proj": "gated-gelu"},
    "BartForConditionalGeneration": SEQ2SEQ,
    "PegasusForConditionalGeneration": SEQ2SEQ,
    "MarianMTModel": {**SEQ2SEQ, **IDS, "decoder_start_token_id": 0},
    "M2M100ForConditionalGeneration": SEQ2SEQ,
}
IMAGES: dict[str, tuple[dict[str, Any], int]] = {
    "ViTForImageClassification": (VISION, 32),
    "DeiTModel": (VISION, 32),
    "BeitModel": ({**VISION, "use_relative_position_bias": True}, 32),
    "Dinov2Model": (VISION, 32),
    "SwinModel": ({"image_size": 64, "patch_size": 4, "embed_dim": 24, "depths": (2, 2), "num_heads": (2, 4),
                   "window_size": 4}, 64),
    "SegformerForSemanticSegmentation": ({}, 64),
    "ConvNextModel": ({"hidden_sizes": [16, 32, 48, 64], "depths": [1, 1, 2, 1]}, 64),
    "PvtV2Model": ({"image_size": 64}, 64),
    "SiglipVisionModel": (VISION, 32),
    "CLIPVisionModel": (VISION, 32),
    "PoolFormerModel": ({}, 64),
    "MobileViTModel": ({"image_size": 64}, 64),
}  # fmt: skip


def networks() -> list[Network]:
    """Return them."""
    tokens = torch.randint(3, 96, (2, 12), generator=torch.Generator().manual_seed(0))
    found = [_network(name, keys, "encoder", {"input_ids": tokens}) for name, keys in ENCODERS.items()]
    uncached = {"input_ids": tokens, "use_cache": False}
    for kind, models in (("decoder", DECODERS), ("mixture of experts", EXPERT_DECODERS), ("state space", STATE_SPACE)):
        found += [_network(name, keys, kind, uncached) for name, keys in models.items()]
    both = {**uncached, "decoder_input_ids": tokens}
    found += [_network(name, keys, "encoder-decoder", both) for name, keys in PAIRS.items()]
    found += [_network(name, keys, "vision", {"pixel_values": images(size)}) for name, (keys, size) in IMAGES.items()]
    sound = {"input_values": torch.randn(2, 400, generator=torch.Generator().manual_seed(0))}
    found += [_network(name, AUDIO, "audio", sound) for name in ("Wav2Vec2Model", "HubertModel", "WavLMModel")]
    mel = torch.randn(2, 16, 40, generator=torch.Generator().manual_seed(0))
    whisper = {**SEQ2SEQ, "num_mel_bins": 16, "max_source_positions": 20, **IDS, "decoder_start_token_id": 1}
    heard = {"input_features": mel, "decoder_input_ids": tokens, "use_cache": False}
    found.append(_network("WhisperForConditionalGeneration", whisper, "audio", heard))
    spectrum = {**SMALL, "max_length": 64, "num_mel_bins": 32}
    found.append(_network("ASTModel", spectrum, "audio", {"input_values": mel.new_ones(2, 64, 32)}))
    found.append(_clip(tokens))
    return found


def _network(name: str, keys: dict[str, Any], task: str, inputs: dict[str, Any]) -> Network:
    def build() -> nn.Module:
        import transformers

        kind = getattr(transformers, name)
        return kind(kind.config_class(**keys))

    return Network(f"transformers/{name}", build, _called_with(inputs), task)


def _called_with(inputs: dict[str, Any]) -> Callable[[nn.Module], Any]:
    return lambda model: model(**inputs)


def _clip(tokens: torch.Tensor) -> Network:
    def build() -> nn.Module:
        import transformers

        text = {**SMALL, **IDS}
        return transformers.CLIPModel(
            transformers.CLIPConfig(text_config=text, vision_config=VISION, projection_dim=32)
        )

    inputs = {"input_ids": tokens, "pixel_values": images(32)}
    return Network("transformers/CLIPModel", build, _called_with(inputs), "text and images")
