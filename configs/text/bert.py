"""Prune a small Bert that tells letters that are hidden of a text, by `transformers.Trainer`.

::

    python bert.py config.json              by hand: prints the losses, and saves into the folder small
    raycompress launch bert.json            a search
"""

import sys

import letters
import torch
from torch import Tensor
from transformers import BertConfig, BertForMaskedLM

import raycompress as rc
from raycompress.integrations.transformers import compress_trainer


def dense() -> BertForMaskedLM:
    return BertForMaskedLM(
        BertConfig(
            vocab_size=letters.VOCABULARY,
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=letters.LENGTH,
            pad_token_id=0,
            bos_token_id=None,
            eos_token_id=None,
        )
    )


def pretrained() -> dict[str, Tensor]:
    """Return the weights of a dense model, trained from a random start."""
    torch.manual_seed(0)
    model = dense()
    letters.trainer(model, steps=100, masks=True, eval_strategy="no").train()
    return model.state_dict()


def main(config: rc.BasicConfig) -> None:
    torch.set_num_threads(1)  # a second one has nothing to do
    model = dense()
    model.load_state_dict(rc.shared(pretrained))  # trained once, for all trials
    trainer = letters.trainer(model, steps=config.get("steps", 40), masks=True)

    compression = compress_trainer(trainer, config)
    trainer.train()
    compression.save_pretrained("small")  # BertForMaskedLM.from_pretrained("small") loads it, without raycompress


if __name__ == "__main__":
    main(rc.BasicConfig().load(sys.argv[1]))
