"""Programs whose contracts between data, network and loss are broken or kept; two processes are launched from here."""

import logging
import warnings
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from helpers.pathology_cases import watch

SAMPLES, BATCH = 256, 32


class Supervised(LightningModule):
    """A network and a loss of its output and the target."""

    def __init__(self, net: nn.Module, loss: Callable[[Tensor, Tensor], Tensor], lr: float = 1e-2):
        super().__init__()
        self.net, self.loss, self.lr = net, loss, lr

    def training_step(self, batch, batch_idx):
        x, y = batch
        return self.loss(self.net(x), y)

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=self.lr)


def mlp(outputs: int, *last: nn.Module, inputs: int = 4) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, 16), nn.ReLU(), nn.Linear(16, outputs), *last)


def inputs(*shape: int) -> Tensor:
    return torch.randn(*(shape or (SAMPLES, 4)), generator=torch.Generator().manual_seed(3))


def classes(count: int = 3) -> Tensor:
    return (inputs()[:, : count - 1] > 0).sum(1)


def bits() -> Tensor:
    return classes(2).float()[:, None]


def one_hot(count: int = 3) -> Tensor:
    return F.one_hot(classes(count), count).float()


def numbers() -> Tensor:
    return inputs().sum(1, keepdim=True)


def batches(x: Tensor, y: Tensor, size: int = BATCH) -> DataLoader:
    return DataLoader(TensorDataset(x, y), batch_size=size)


def seen(
    net: nn.Module, loss: Callable[[Tensor, Tensor], Tensor], x: Tensor, y: Tensor, lr: float = 1e-2, **settings: Any
):
    """Train with a detector for its first samples and return it."""
    return watch(Supervised(net, loss, lr), data=batches(x, y), **{"steps": 9, **settings})


def softmax_over_one() -> tuple[Any, ...]:
    return mlp(1, nn.Softmax(dim=1)), F.mse_loss, inputs(), bits()


def probabilities_to_cross_entropy() -> tuple[Any, ...]:
    return mlp(3, nn.Softmax(dim=1)), F.cross_entropy, inputs(), classes()


def sigmoid_onto_numbers() -> tuple[Any, ...]:
    return mlp(1, nn.Sigmoid()), F.mse_loss, inputs(), numbers()


def large_inputs() -> tuple[Any, ...]:
    return mlp(1), F.mse_loss, 1000 * inputs(), numbers()


class Forgetful(Dataset):
    """Gives the same batch whatever the index."""

    def __len__(self):
        return 16

    def __getitem__(self, index):
        return inputs()[:BATCH], numbers()[:BATCH]


def one_batch_for_ever() -> DataLoader:
    return DataLoader(Forgetful(), batch_size=None)


SLOW = 1e-4  # so that no run diverges: a sampler for two ranks orders the samples anew
IN_TWO = (softmax_over_one, probabilities_to_cross_entropy, sigmoid_onto_numbers, large_inputs)
CONTRACTS = {"output_mismatch", "loss_mismatch", "unscaled_data", "repeated_batch"}


def told(detector: Any) -> list[tuple[str, str, int, str, int | None]]:
    """What it says of contracts."""
    found = [each for each in detector.findings if str(each.kind) in CONTRACTS]
    return [(str(each.kind), each.layer, each.step, str(each.severity), each.resolved_at) for each in found]


def of_contracts(detector: Any) -> set[tuple[str, str]]:
    """Kind and layer of what it says of them at ``warning`` or above."""
    return {(kind, layer) for kind, layer, _, severity, _ in told(detector) if severity != "info"}


def alone() -> dict[str, Any]:
    found = {}
    for case in IN_TWO:
        torch.manual_seed(0)
        found[case.__name__] = told(seen(*case(), lr=SLOW))
    found["one batch"] = told(watch(Supervised(mlp(1), F.mse_loss), data=one_batch_for_ever(), steps=9))
    return found


class OtherLossOnce(Supervised):
    """On the first step rank 1 computes another loss."""

    def training_step(self, batch, batch_idx):
        x, y = batch
        if self.global_rank == 1 and self.global_step == 0:
            return F.l1_loss(self.net(x), y)
        return super().training_step(batch, batch_idx)


def in_two() -> dict[str, Any]:
    """The same on half a batch each."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    found: dict[str, Any] = {}

    def in_halves(module: LightningModule, data: DataLoader) -> Any:
        return watch(module, data=data, steps=9, devices=2, strategy=DDPStrategy())

    for case in IN_TWO:
        torch.manual_seed(0)
        net, loss, x, y = case()
        detector = in_halves(Supervised(net, loss, SLOW), batches(x, y, BATCH // 2))
        found[case.__name__] = told(detector)
        found[f"{case.__name__}, messages"] = [each.message for each in detector.findings]
    found["one batch"] = told(in_halves(Supervised(mlp(1), F.mse_loss), one_batch_for_ever()))
    net, loss, x, y = sigmoid_onto_numbers()
    detector = in_halves(OtherLossOnce(net, loss), batches(x, y, BATCH // 2))
    found["apart"] = [told(detector), [each.step for each in detector.history.contracts]]
    return found
