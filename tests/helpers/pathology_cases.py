"""Runs that tests/callbacks/test_pathology_detector.py looks at; those of two processes are launched from here."""

import itertools
import logging
import warnings
from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy
from lightning.pytorch.utilities.model_helpers import is_overridden
from sklearn.datasets import load_digits
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.utils.data import DataLoader, TensorDataset

from helpers.runs import trainer
from lightning_gradtools.callbacks import PathologyDetector

BATCH = 64


def digits(batch_size: int = BATCH) -> DataLoader:
    """The first 1280 digits in order, so that every run sees the same batches."""
    x, y = load_digits(return_X_y=True)
    images = torch.tensor(x[:1280], dtype=torch.float32) / 8 - 0.6
    return DataLoader(TensorDataset(images, torch.tensor(y[:1280])), batch_size=batch_size)


def stack(activation: type[nn.Module], depth: int, width: int = 32, gain: float = 2.0**0.5) -> nn.Sequential:
    """A stack without normalisation, its weights drawn with the given gain."""
    sizes = [64] + [width] * depth
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(sizes):
        layers += [nn.Linear(before, after), activation()]
    net = nn.Sequential(*layers, nn.Linear(width, 10))
    for layer in net[::2]:
        nn.init.normal_(layer.weight, std=gain / layer.in_features**0.5)
        nn.init.zeros_(layer.bias)
    return net


class Classification(LightningModule):
    """Cross-entropy times ``scale``, by SGD with the learning rate divided by it unless told otherwise."""

    def __init__(self, net: nn.Module, lr: float = 0.1, scale: float = 1.0, optimizer: Any = torch.optim.SGD):
        super().__init__()
        self.net, self.lr, self.scale, self.make = net, lr, scale, optimizer

    def training_step(self, batch, batch_idx):
        x, y = batch
        return self.scale * F.cross_entropy(self.net(x), y)

    def validation_step(self, batch, batch_idx):
        x, y = batch
        self.log("val/loss", F.cross_entropy(self.net(x), y))

    def configure_optimizers(self):
        return self.make([p for p in self.parameters() if p.requires_grad], lr=self.lr / self.scale)


def watch(module: LightningModule, *callbacks: Callback, data: Any = None, steps: int = 61, **settings: Any):
    """Train with a detector and return it."""
    detector = PathologyDetector(table=False, on_warning="log", on_critical="log")
    run = trainer(detector, *callbacks, max_epochs=-1, max_steps=steps, **settings)
    data = digits() if data is None else data
    first = DataLoader([next(iter(data))], batch_size=None)
    run.fit(module, data, first if is_overridden("validation_step", module) else None)
    assert detector.failure is None
    return detector


def verdicts(detector: PathologyDetector) -> list[tuple[str, str, int, str, int | None]]:
    return [(str(f.kind), f.layer, f.step, str(f.severity), f.resolved_at) for f in detector.findings]


def serious(detector: PathologyDetector) -> set[tuple[str, str]]:
    return {(str(f.kind), f.layer) for f in detector.findings if f.severity >= "warning"}


SICK = {
    "sigmoid stack": lambda: Classification(stack(nn.Sigmoid, 8, gain=1.0)),
    "killed units": lambda: Classification(_killed(stack(nn.ReLU, 3))),
    "constant weights": lambda: Classification(_constant(stack(nn.ReLU, 3))),
}
HEALTHY = {"relu stack": lambda: Classification(stack(nn.ReLU, 4))}


def _killed(net: nn.Sequential) -> nn.Sequential:
    nn.init.constant_(net[2].bias, -30.0)
    nn.init.constant_(net[4].bias, 0.1)  # or the next layer would have nothing to fire on either
    return net


def _constant(net: nn.Sequential) -> nn.Sequential:
    for layer in net[::2]:
        nn.init.constant_(layer.weight, 0.05)
    return net


def one_process() -> dict[str, Any]:
    """Verdicts by case; seeded alike on all ranks."""
    found = {}
    for name, make in {**SICK, **HEALTHY}.items():
        torch.manual_seed(0)
        found[name] = verdicts(watch(make()))
    return found


class Poisoned(Classification):
    """A NaN in the loss of one rank's batch at step 8, which is one of those sampled."""

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        return loss * float("nan") if self.global_step == 8 and self.global_rank == 1 else loss


class Sharded(Classification):
    def configure_model(self):
        for layer in self.net[::2]:
            fully_shard(layer, mesh=self.device_mesh["data_parallel"])


class ApartOnce(Classification):
    """On some steps rank 1 takes another way than rank 0: another layer, another activation, another loss."""

    def __init__(self, net):
        super().__init__(net)
        self.other = nn.Linear(10, 10)

    def training_step(self, batch, batch_idx):
        x, y = batch
        if self.global_rank == 0 or self.global_step % 8:
            return super().training_step(batch, batch_idx)
        return F.mse_loss(torch.tanh(self.other(self.net(x))), F.one_hot(y, 10).float())


def two_processes() -> dict[str, Any]:
    """The same on half a batch each; which samples go to which rank does not matter to a mean."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    found: dict[str, Any] = {}
    for name in ("sigmoid stack", "killed units"):
        torch.manual_seed(0)
        settings = {"devices": 2, "strategy": DDPStrategy()}
        found[name] = verdicts(watch(SICK[name](), data=digits(BATCH // 2), **settings))
    for name in ("killed units", "constant weights"):
        torch.manual_seed(0)
        module = Sharded(SICK[name]().net)
        settings = {"devices": 2, "strategy": ModelParallelStrategy(data_parallel_size=2, tensor_parallel_size=1)}
        found[f"{name}, FSDP2"] = verdicts(watch(module, data=digits(BATCH // 2), **settings))
    torch.manual_seed(0)
    settings = {"devices": 2, "strategy": DDPStrategy(find_unused_parameters=True)}
    detector = watch(ApartOnce(SICK["killed units"]().net), data=digits(BATCH // 2), steps=41, **settings)
    found["apart"] = [*verdicts(detector), [len(each.layers) for each in detector.history.observations]]
    torch.manual_seed(0)
    detector = watch(Poisoned(stack(nn.ReLU, 2)), data=digits(BATCH // 2), steps=12, devices=2, strategy=DDPStrategy())
    found["poisoned"] = [f.as_dict() for f in detector.findings]
    return found
