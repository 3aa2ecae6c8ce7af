"""Hugging Face transformers: random weights, small configurations, losses of their own."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import lightning.pytorch as pl
import torch
import transformers
from torch import Tensor, nn

from projects.recipe import BIAS, EQUAL, INITIAL, RATE, Recipe, Setting, batches, images, sentences, train

WORDS = 40
SHAPE = {
    "vocab_size": WORDS,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}


def own_loss(build: Callable[[Mapping[str, Any]], Mapping[str, Any]], model: nn.Module, batch: Any) -> Tensor:
    """Return the loss that the model computes itself from the arguments that ``build`` makes."""
    loss: Tensor = model(**build(batch)).loss
    return loss


def next_word(batch: Any) -> dict[str, Tensor]:
    return {"input_ids": batch[0], "labels": batch[0]}


def masked_word(batch: Any) -> dict[str, Tensor]:
    (words,) = batch
    hidden = torch.arange(words.shape[1]) % 5 == 2
    return {"input_ids": words.masked_fill(hidden, 0), "labels": words.masked_fill(~hidden, -100)}


def reversed_words(batch: Any) -> dict[str, Tensor]:
    return {"input_ids": batch[0], "labels": batch[0].flip(1)[:, :6].contiguous()}


def picture(batch: Any) -> dict[str, Tensor]:
    return {"pixel_values": batch[0], "labels": batch[1]}


def language(kind: str, config: Mapping[str, Any], build: Any, setting: Setting) -> pl.LightningModule:
    """Train a model of words."""
    settings = getattr(transformers, f"{kind.partition('For')[0].removesuffix('LMHeadModel')}Config")(**config)
    loader = batches(sentences(WORDS))
    return train(setting, getattr(transformers, kind)(settings), partial(own_loss, build), loader, rate=3e-3, steps=150)


def vit(setting: Setting) -> pl.LightningModule:
    """Train a classifier of images."""
    pixels, labels = images()
    config = transformers.ViTConfig(**SHAPE, image_size=32, patch_size=8, num_labels=4)
    loader = batches(pixels, labels)
    return train(setting, transformers.ViTForImageClassification(config), partial(own_loss, picture), loader)


GPT2 = {"vocab_size": WORDS, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
T5 = {"vocab_size": WORDS, "d_model": 32, "d_ff": 64, "d_kv": 8, "num_layers": 2, "num_heads": 4}
T5_START = {"decoder_start_token_id": 0, "pad_token_id": 0}
EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2, "output_router_logits": True}


def recipe(kind: str, config: Mapping[str, Any], build: Any, sickness: str) -> Recipe:
    return Recipe(package="transformers", sickness=sickness, fit=partial(language, kind, config, build))


RECIPES = {
    "transformers GPT-2": recipe("GPT2LMHeadModel", GPT2, next_word, RATE),
    "transformers BERT": recipe("BertForMaskedLM", SHAPE, masked_word, RATE),
    "transformers ViT": Recipe(package="transformers", sickness=BIAS, fit=vit),
    "transformers Llama": recipe("LlamaForCausalLM", SHAPE, next_word, EQUAL),
    "transformers Mixtral": recipe("MixtralForCausalLM", {**SHAPE, **EXPERTS}, next_word, RATE),
    "transformers T5": recipe("T5ForConditionalGeneration", {**T5, **T5_START}, reversed_words, INITIAL),
}
