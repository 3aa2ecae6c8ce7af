"""Runs with the faults of large models, in small: sick ones, healthy twins, and cured ones."""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from helpers.pathology_cases import watch
from lightning_gradtools.callbacks import PathologyDetector
from lightning_gradtools.tasks.data.text import ALPHABET, encode, standard_library_text
from lightning_gradtools.tasks.networks import GPT

CONTEXT = 32


def text(batch_size: int = 16, batches: int = 200) -> DataLoader:
    ids = encode(standard_library_text(batch_size * batches * CONTEXT + 1))
    inputs, targets = ids[:-1].reshape(-1, CONTEXT), ids[1:].reshape(-1, CONTEXT)
    order = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(0))
    return DataLoader(TensorDataset(inputs[order], targets[order]), batch_size=batch_size)


class Reader(LightningModule):
    """Cross-entropy of the next character, by AdamW, with or without warm-up."""

    def __init__(self, net: nn.Module, lr: float, warm_up: int = 0) -> None:
        super().__init__()
        self.net, self.lr, self.warm_up = net, lr, warm_up

    def training_step(self, batch, batch_idx):
        tokens, targets = batch
        return F.cross_entropy(self.net(tokens).flatten(0, 1), targets.flatten())

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.lr)
        if not self.warm_up:
            return optimizer
        rising = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / self.warm_up))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": rising, "interval": "step"}}


def gpt(depth: int = 4, width: int = 64, heads: int = 4) -> GPT:
    return GPT(len(ALPHABET) + 1, context_length=CONTEXT, depth=depth, width=width, heads=heads)


class NormedAttention(nn.Module):
    """Causal attention with or without QK-norm (Henry et al. 2020, arXiv:2010.04245); its scores in the open."""

    def __init__(self, width: int, heads: int, qk_norm: bool) -> None:
        super().__init__()
        self.heads, self.qk_norm = heads, qk_norm
        self.qkv, self.output = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, time, width = x.shape
        q, k, v = self.qkv(x).view(batch, time, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        if self.qk_norm:
            q, k = F.rms_norm(q, q.shape[-1:]), F.rms_norm(k, k.shape[-1:])
        scores = q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5
        hidden = torch.ones(time, time, dtype=torch.bool).triu(1)
        weights = scores.masked_fill(hidden, -torch.inf).softmax(-1)
        return self.output((weights @ v).transpose(1, 2).reshape(batch, time, width))


def qk_normed(net: GPT) -> GPT:
    for block in net.blocks:
        block.attention.__class__ = QKNorm
    return net


class QKNorm(type(gpt(1, 8, 1).blocks[0].attention)):
    def forward(self, x: Tensor) -> Tensor:
        batch, time, width = x.shape
        q, k, v = self.qkv(x).view(batch, time, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        q, k = F.rms_norm(q, q.shape[-1:]), F.rms_norm(k, k.shape[-1:])
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.output(y.transpose(1, 2).reshape(batch, time, width))
