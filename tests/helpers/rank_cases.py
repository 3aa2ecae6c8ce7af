"""Runs of several ranks for tests/test_ranks.py: a step that talks to other ranks, and another number of ranks."""

import logging
import warnings
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.utils.data import DataLoader, TensorDataset

from helpers.pathology_cases import BATCH, SICK, Classification, digits, verdicts
from helpers.runs import Regression, batches, loader, trainer
from lightning_gradtools.callbacks import (
    GradientCheck,
    GradientClipping,
    HessianSpectrum,
    LastCheckpoint,
    PathologyDetector,
    WeightInitialization,
)
from lightning_gradtools.distributed import CommunicationError, alone


class Contrastive(Regression):
    """Each rank's loss is over the outputs of all; rank 1's is NaN at one step."""

    def __init__(self, poison: int = -1, **settings: Any):
        super().__init__(**settings)
        self.poison = poison

    def training_step(self, batch, batch_idx):
        x, y = batch
        everyone = self.all_gather(self.net(x), sync_grads=True).reshape(-1, 1)
        loss = F.mse_loss(everyone, y.repeat(self.trainer.world_size, 1))
        poisoned = self.global_rank == 1 and batch_idx == self.poison
        return loss * float("nan") if poisoned else loss


def talking_to_other_ranks() -> dict[str, Any]:
    """Train on this rank of two with and without those who run the step by themselves; return what they say."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    settings = {"devices": 2, "max_epochs": 1}
    weights = []
    detector = PathologyDetector(2, on_warning="log", on_critical="log", table=False)
    spectrum = HessianSpectrum(every_n_steps=2, top_k=1)
    for callbacks in ([], [GradientCheck(on_failure="warn"), spectrum, detector]):
        torch.manual_seed(0)
        module = Contrastive(poison=3)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            trainer(*callbacks, strategy=DDPStrategy(), **settings).fit(module, loader(batches(12)))
        weights.append(torch.cat([each.detach().reshape(-1) for each in module.parameters()]).nan_to_num(7.0))
    initialized = []
    for scheme in ("he", "lsuv"):
        try:
            trainer(WeightInitialization(scheme), strategy=DDPStrategy(), **settings).fit(
                Contrastive(), loader(batches(2))
            )
            initialized.append("trained")
        except CommunicationError as error:
            initialized.append(str(error))
    return {
        "weights": weights,
        "said": [str(each.message) for each in said],
        "spectrum": spectrum.failure,
        "findings": [(str(each.kind), each.step, each.message) for each in detector.findings],
        "detector": detector.failure,
        "initialized": initialized,
    }


_CALLS: list[int] = []  # not on the class: a probe puts back what that holds


class FullInProbe(Regression):
    """Memory is full on one rank, in an evaluation beside training."""

    def __init__(self, at: int, **settings: Any):
        super().__init__(**settings)
        self.dropout, self.at = torch.nn.Dropout(0.0), at  # in evaluation mode in a probe

    def training_step(self, batch, batch_idx):
        if not self.dropout.training and dist.get_rank() == 1:
            _CALLS.append(1)
            if len(_CALLS) == self.at:
                raise MemoryError("planted")
        return super().training_step(batch, batch_idx)


def memory_full_in_a_probe(at: int) -> tuple[str | None, int, list[int]]:
    """Return why the spectrum is off on this rank, the steps taken, and those after which there was a spectrum.

    Ranks bring their states together for a checkpoint after each batch, and spectra are due again.
    """
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    _CALLS.clear()
    spectrum = HessianSpectrum(every_n_steps=2, top_k=1)
    run = trainer(spectrum, LastCheckpoint(every_minutes=1e-9), devices=2, max_epochs=1, strategy=DDPStrategy())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run.fit(FullInProbe(at), loader(batches(16)), loader(batches(2)))
    return spectrum.failure, run.global_step, [step for step, _ in spectrum.history]


def collectives_refused() -> list[str]:
    """Return what each collective says that is called by one rank alone."""
    tensor, said = torch.ones(2), []
    calls = {
        "all_reduce": lambda: dist.all_reduce(tensor),
        "all_gather": lambda: dist.all_gather([torch.ones(2), torch.ones(2)], tensor),
        "broadcast": lambda: dist.broadcast(tensor, 0),
        "barrier": dist.barrier,
        "objects": lambda: dist.all_gather_object([None, None], 1),
        "nothing": lambda: tensor + 1,
    }
    for name, call in calls.items():
        if name == "nothing" or dist.get_rank() == 0:
            try:
                with alone():
                    call()
                said.append(f"{name}: done")
            except CommunicationError as error:
                said.append(f"{name}: {error}")
    return said


def run_of_units(folder: str, epochs: int, resume: str | None, save: str | None) -> dict[str, Any]:
    """Train the net with killed units on the same global batches, whatever the number of ranks."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    ranks = dist.get_world_size() if dist.is_initialized() else 1
    torch.manual_seed(0)
    detector = PathologyDetector(table=False, on_warning="log", on_critical="log")
    clipping = GradientClipping(percentile=50, window=16, warmup_steps=4)
    settings = {"devices": ranks, "use_distributed_sampler": False, "max_epochs": epochs}
    if ranks > 1:
        settings["strategy"] = DDPStrategy()
    run = trainer(detector, clipping, **settings)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = SICK["killed units"]()
        here = [part[dist.get_rank() :: ranks] if ranks > 1 else part for part in digits().dataset.tensors]
        data = DataLoader(TensorDataset(*here), batch_size=BATCH // ranks)
        run.fit(module, data, ckpt_path=resume and f"{folder}/{resume}", weights_only=False)
        if save:
            run.save_checkpoint(Path(folder) / save)
    assert detector.failure is None
    latest = detector.history.observations[-1]
    return {
        "verdicts": verdicts(detector),
        "units": [(each.name, each.dead, each.units, each.samples) for each in latest.activations],
        "losses": [loss for _, loss in detector.history.losses],
        "threshold": float(run.callback_metrics["clip/threshold"]),
    }


class TensorParallel(Classification):
    """The hidden units of the first layer are split over the ranks; those of the last are on each."""

    def configure_model(self):
        if not isinstance(self.net[0].weight, DTensor):
            plan = {"0": ColwiseParallel(), "2": RowwiseParallel()}
            parallelize_module(self.net, self.device_mesh["tensor_parallel"], plan)


def units_of_shards() -> list[Any]:
    """Return the units that a detector saw on this rank of two, of which each holds half of the first activation's."""
    torch.manual_seed(0)
    module = TensorParallel(SICK["killed units"]().net)
    detector = PathologyDetector(table=False, on_warning="log", on_critical="log")
    strategy = ModelParallelStrategy(data_parallel_size=1, tensor_parallel_size=2)
    run = trainer(detector, max_epochs=-1, max_steps=12, devices=2, strategy=strategy)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run.fit(module, digits(BATCH))
    assert detector.failure is None, detector.failure
    latest = detector.history.observations[-1]
    return [(each.name, each.dead, each.units, each.samples) for each in latest.activations]
