"""Networks, data and Trainers that the checks share."""

import gc
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from bench_gradients import bytes_held
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers.logger import DummyLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader

from gpu.check import Setting
from lightning_gradtools._lightning.fail_safe import FailSafe
from lightning_gradtools.tasks.networks.gpt import GPT

Batch = tuple[Tensor, Tensor]
Optimizers = Callable[..., torch.optim.Optimizer]


class Regression(LightningModule):
    """Least squares with an MLP, ReLU and tanh, of random first weights that are always the same."""

    def __init__(self, optimizer: Optimizers = torch.optim.AdamW, **settings: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(
            *(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 4)),
        )
        self.optimizer, self.settings = optimizer, {"lr": 1e-2, **settings}

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        x, y = batch
        return F.mse_loss(self.net(x), y)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return self.optimizer(self.parameters(), **self.settings)


class LanguageModel(LightningModule):
    """Next tokens with a GPT of random weights, always the same: GPT-2 of 124M parameters, or a tiny one."""

    def __init__(self, setting: Setting) -> None:
        super().__init__()
        torch.manual_seed(0)
        depth, width, heads = (2, 32, 2) if setting.small else (12, 768, 12)
        self.net = GPT(vocabulary(setting), setting.context_length, depth, width, heads)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        tokens, targets = batch
        return F.cross_entropy(self.net(tokens).flatten(0, 1), targets.flatten())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=1e-4, fused=True)


def vocabulary(setting: Setting) -> int:
    """Return the number of tokens that the GPT knows."""
    return 64 if setting.small else 50257


def rows_of_numbers(count: int, dtype: torch.dtype = torch.float32) -> list[Batch]:
    """Return so many batches (x, y) of shapes (8, 16) and (8, 4)."""
    generator = torch.Generator().manual_seed(1)
    return [
        (
            torch.randn(8, 16, generator=generator, dtype=torch.float64).to(dtype),
            torch.randn(8, 4, generator=generator, dtype=torch.float64).to(dtype),
        )
        for _ in range(count)
    ]


def rows_of_tokens(count: int, setting: Setting, batch_size: int | None = None) -> list[Batch]:
    """Return so many times one batch of tokens and the next ones, each (batch, time)."""
    generator = torch.Generator().manual_seed(1)
    shape = (batch_size or setting.batch_size, setting.context_length + 1)
    tokens = torch.randint(vocabulary(setting), shape, generator=generator)
    return [(tokens[:, :-1], tokens[:, 1:])] * count


def train(
    module: LightningModule, callbacks: Sequence[Callback], batches: list[Batch], setting: Setting, **settings: Any
) -> Trainer:
    """Train one step on each of ``batches`` and return the Trainer."""
    trainer = Trainer(
        **{
            "accelerator": "gpu" if setting.device == "cuda" else "cpu",
            "devices": 1,
            "max_steps": len(batches),
            "callbacks": list(callbacks),
            "logger": DummyLogger(),
            "log_every_n_steps": 4,
            "default_root_dir": setting.folder,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            **settings,
        }
    )
    data: Any = batches  # a list is a dataset, whatever its type says
    trainer.fit(module, DataLoader(data, batch_size=None))
    return trainer


def weights(module: nn.Module) -> dict[str, Tensor]:
    """Return copies of the weights, on the host."""
    return {name: parameter.detach().cpu().clone() for name, parameter in module.named_parameters()}


def differing(first: dict[str, Tensor], second: dict[str, Tensor]) -> int:
    """Return in how many tensors two sets of weights are not bit for bit the same."""
    assert first.keys() == second.keys()
    return sum(not torch.equal(first[name], second[name]) for name in first)


def farthest(first: dict[str, Tensor], second: dict[str, Tensor]) -> float:
    """Return the largest distance of two weight tensors, relative to the norm of the first."""
    return max(float((first[name] - second[name]).norm() / first[name].norm().clamp(min=1e-12)) for name in first)


def failures(callbacks: Sequence[Callback]) -> list[str]:
    """Return what made any of the callbacks disable itself."""
    guards = [getattr(callback, "guard", None) for callback in callbacks]
    found = [guard.failure or guard.failed_here for guard in guards if isinstance(guard, FailSafe)]
    return [str(failure) for failure in found if failure]


def memory_held(setting: Setting) -> int:
    """Return the bytes of tensors alive: on a GPU all that is allocated there, on a CPU those that Python knows."""
    if setting.device != "cuda":
        return bytes_held()
    gc.collect()
    torch.cuda.synchronize()
    return torch.cuda.memory_allocated()


def free_memory(setting: Setting) -> None:
    """Let a GPU go of what nothing needs any more, and begin to look for a new peak there."""
    if setting.device == "cuda":
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
