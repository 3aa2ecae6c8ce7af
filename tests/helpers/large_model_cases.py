"""Runs with the faults of large models, in small: sick ones, their healthy twins, and cured ones."""

import logging
import warnings
from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from helpers.pathology_cases import Classification, digits, watch
from lightning_gradtools.callbacks import PathologyDetector
from lightning_gradtools.tasks.networks import GPT
from lightning_gradtools.tasks.networks.gpt import CausalSelfAttention

TOKENS, LENGTH, BACK = 16, 16, 3


def sequences(batch_size: int = 32, batches: int = 130) -> DataLoader:
    """Random tokens, and at each place the one three places back: only attention brings it there."""
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, TOKENS, (batch_size * batches, LENGTH), generator=generator)
    targets = tokens.roll(BACK, 1)
    targets[:, :BACK] = -100
    return DataLoader(TensorDataset(tokens, targets), batch_size=batch_size)


def share(module: LightningModule, batch: list[Tensor]) -> list[Tensor]:
    """This rank's samples of a batch that all ranks are given."""
    return [part[module.global_rank :: module.trainer.world_size] for part in batch]


class QKNormAttention(CausalSelfAttention):
    """With queries and keys of norm √d (Henry et al. 2020, arXiv:2010.04245)."""

    def forward(self, x: Tensor) -> Tensor:
        batch, time, width = x.shape
        q, k, v = self.qkv(x).view(batch, time, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        q, k = F.rms_norm(q, q.shape[-1:]), F.rms_norm(k, k.shape[-1:])
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.output(y.transpose(1, 2).reshape(batch, time, width))


class Recall(LightningModule):
    """A GPT of three blocks that is to tell the token three places back, by AdamW."""

    def __init__(self, lr: float, warm_up: int = 0, qk_norm: bool = False) -> None:
        super().__init__()
        self.net = GPT(TOKENS, context_length=LENGTH, depth=3, width=32, heads=2, tied=False)
        self.lr, self.warm_up = lr, warm_up
        for block in self.net.blocks if qk_norm else ():
            attention = QKNormAttention(32, 2, 0.0)
            attention.load_state_dict(block.attention.state_dict())
            block.attention = attention

    def training_step(self, batch, batch_idx):
        tokens, targets = share(self, batch)
        return F.cross_entropy(self.net(tokens).flatten(0, 1), targets.flatten())

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.lr)
        if not self.warm_up:
            return optimizer
        rising = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / self.warm_up))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": rising, "interval": "step"}}


class Experts(nn.Module):
    """The top-k of small experts, chosen sample by sample (Shazeer et al. 2017, arXiv:1701.06538)."""

    def __init__(self, width: int = 32, experts: int = 8, top: int = 1, shared: bool = False) -> None:
        super().__init__()
        self.router = nn.Linear(width, experts)
        self.experts = nn.ModuleList(expert(width) for _ in range(experts))
        self.shared = expert(width) if shared else nn.Identity()
        self.top = top
        self.balance = torch.zeros(())

    def forward(self, x: Tensor) -> Tensor:
        probabilities = self.router(x).softmax(-1)
        weights, chosen = probabilities.topk(self.top, -1)
        share = F.one_hot(chosen, len(self.experts)).float().sum(1).mean(0)
        self.balance = len(self.experts) * (share * probabilities.mean(0)).sum() / self.top
        out = x + self.shared(x)
        for i, each in enumerate(self.experts):
            rows, place = (chosen == i).nonzero(as_tuple=True)
            if len(rows):
                out = out.index_add(0, rows, weights[rows, place].unsqueeze(1) * each(x[rows]))
        return out


def expert(width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))


class Mixture(Classification):
    """Digits by a mixture of experts; ``balance`` is the weight of the loss that evens out the load."""

    def __init__(self, balance: float = 0.0, favoured: float = 0.0, **settings: Any) -> None:
        layers = {"first": nn.Linear(64, 32), "relu": nn.ReLU(), "mixture": Experts(**settings)}
        net = nn.Sequential()
        for name, layer in layers.items():
            net.add_module(name, layer)
        net.add_module("output", nn.Linear(32, 10))
        super().__init__(net, lr=1e-2, optimizer=torch.optim.Adam)
        self.balance = balance
        with torch.no_grad():
            net.mixture.router.bias.zero_()
            net.mixture.router.bias[0] = favoured

    def training_step(self, batch, batch_idx):
        return super().training_step(share(self, batch), batch_idx) + self.balance * self.net.mixture.balance


def one_process() -> dict[str, Any]:
    """What is found of experts, and the sharpness of heads."""
    return _found(1)


def two_processes() -> dict[str, Any]:
    """The same on half of each batch: other experts run on one rank than on the other."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    return _found(2)


def _found(ranks: int) -> dict[str, Any]:
    def watched(module: LightningModule, data: DataLoader, steps: int) -> PathologyDetector:
        settings: dict[str, Any] = {}
        if ranks > 1:
            settings = {"devices": ranks, "strategy": DDPStrategy(find_unused_parameters=True)}
        return watch(module, data=data, steps=steps, use_distributed_sampler=False, **settings)

    torch.manual_seed(0)
    mixture = watched(Mixture(), digits(), steps=41)
    torch.manual_seed(0)
    recall = watched(Recall(lr=3e-3), sequences(), steps=5)
    return {
        "imbalance": [each.as_dict() for each in mixture.findings if each.kind == "expert_imbalance"],
        "loads": [each.routing[0].load for each in mixture.history.observations],
        "entropies": [each.attention[0].entropies for each in recall.history.observations],
        "log_partitions": [each.log_partition for each in recall.history.observations],
    }


class Drifting(Classification):
    """Digits by a loss that also pays for large logits, whichever class they are of.

    Logits of short runs stay where they are by themselves; this gives them the push that long ones get from rounding.
    """

    def __init__(self, pay: float = 0.3, z_loss: float = 0.0, weight_decay: float = 0.0) -> None:
        super().__init__(nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10)))
        self.pay, self.z_loss, self.weight_decay = pay, z_loss, weight_decay

    def training_step(self, batch, batch_idx):
        x, y = batch
        logits = self.net(x)
        loss = F.cross_entropy(logits, y) + self.z_loss * logits.logsumexp(1).square().mean()
        return loss - self.pay * logits.mean()

    def configure_optimizers(self):
        groups = [
            {"params": self.net[0].parameters(), "weight_decay": 0.0},
            {"params": self.net[2].parameters(), "weight_decay": self.weight_decay},
        ]
        return torch.optim.AdamW(groups, lr=1e-2)


def digits_with_outliers(outliers: tuple[int, ...], scale: float = 10.0) -> list[Any]:
    """Eight epochs of digits in which the batches of some steps are ``scale`` times as large."""
    batches = [batch for _ in range(8) for batch in digits()]
    return [(scale * x, y.flip(0)) if i in outliers else (x, y) for i, (x, y) in enumerate(batches)]
