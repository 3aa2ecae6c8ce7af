"""A process group that serves the device alone, as plain nccl does: what is reduced must be on the device."""

import os
from collections.abc import Sequence
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist
from lightning.pytorch import Callback
from lightning.pytorch.strategies import DDPStrategy

from gpu.check import Check, Outcome, Setting
from gpu.runs import Regression, failures, rows_of_numbers, train
from lightning_gradtools.callbacks import GradientClipping, GradientMonitor, HessianSpectrum, PathologyDetector
from lightning_gradtools.curvature import hessian_spectrum
from lightning_gradtools.distributed import any_rank, gather_objects, largest_over_ranks, mean_over_ranks, meet

STEPS = 8


def _backend(setting: Setting) -> str:
    return "nccl" if setting.device == "cuda" else "gloo"


def _made() -> tuple[HessianSpectrum, PathologyDetector, list[Callback]]:
    spectrum, detector = HessianSpectrum(every_n_steps=4, top_k=1), PathologyDetector(2, table=False)
    return spectrum, detector, [GradientMonitor(log_every_n_steps=1), GradientClipping(1.0), detector, spectrum]


def one_process(setting: Setting) -> Outcome:
    """Train in a group of one process, and compare what is measured with a run without a group.

    A group of one spares itself most collectives. So it trains once more with callbacks that believe it to be of two,
    and then make them.
    """
    values: list[float] = []
    samples, problems = 0, list[str]()
    for grouped, believed in ((False, 1), (True, 1), (True, 2)):
        spectrum, detector, callbacks = _made()
        strategy = DDPStrategy(process_group_backend=_backend(setting)) if grouped else "auto"
        options: dict[str, Any] = {"strategy": strategy, "use_distributed_sampler": False}
        try:
            # Lightning leaves the address of the group in the environment.
            with patch.dict(os.environ), patch("lightning_gradtools.distributed.world_size", return_value=believed):
                train(Regression(), callbacks, rows_of_numbers(STEPS), setting, **options)
            backend = dist.get_backend() if dist.is_initialized() else ""
        finally:
            if dist.is_initialized():
                dist.destroy_process_group()
        problems += failures(callbacks)
        if spectrum.latest is None or (grouped and backend != _backend(setting)):
            return Outcome(measured=f"{backend or 'no group'}: {'; '.join(problems) or 'no spectrum'}", ok=False)
        values.append(float(spectrum.latest.eigenvalues[0]))
        samples = len(detector.history.observations)
    apart = max(abs(value / values[0] - 1) for value in values[1:])
    found = f"{_backend(setting)}: sharpness apart by {apart:.0e}, {samples} samples"
    return Outcome(
        measured=found + "".join(f"; {x}" for x in problems),
        ok=apart < 1e-3 and samples > 0 and not problems,
        figures={"apart": apart, "samples": samples},
    )


def as_if_of_two(setting: Setting) -> Outcome:
    """Make in a group of one process the collectives that it would make with another one.

    The other's part is missing, so that a mean over ranks is half of this rank's.
    """
    device = torch.device(setting.device, 0) if setting.device == "cuda" else torch.device("cpu")
    module = Regression().to(device)
    x, y = (part.to(device) for part in rows_of_numbers(1)[0])

    def sharpness(together: bool) -> float:
        found = hessian_spectrum(
            lambda: module.training_step((x, y), 0), module.parameters(), top_k=1, average_ranks=together
        )
        return float(found.eigenvalues[0])

    alone = sharpness(False)
    dist.init_process_group(_backend(setting), init_method=f"file://{setting.folder}/group", rank=0, world_size=1)
    try:
        with patch("lightning_gradtools.distributed.world_size", return_value=2):
            ratio = sharpness(True) / alone
            largest = largest_over_ranks(torch.tensor([3.0], device=device))
            meeting = meet("the same", False, device)
        mean = mean_over_ranks(torch.tensor([3.0], device=device))
        flag = any_rank(torch.tensor(True, device=device))
        gathered: Sequence[object] = gather_objects("from one")
    finally:
        dist.destroy_process_group()
    others = float(largest) == float(mean) == 3.0 and meeting == (True, False) and bool(flag)
    return Outcome(
        measured=f"sharpness {ratio:.4f} of that alone; the others {'right' if others else 'wrong'}",
        ok=abs(2 * ratio - 1) < 1e-3 and others and gathered == ["from one"],
        figures={"ratio": ratio},
    )


def checks() -> list[Check]:
    """Return the rows."""
    return [
        Check(
            name="a plain nccl group of one process: spectrum and detector",
            expected="nccl: sharpness within 1e-3 of that without a group, nothing disabled",
            measure=one_process,
        ),
        Check(
            name="the collectives of two ranks, made in a plain nccl group of one",
            expected="sharpness 0.5 of that alone (the other's part is missing); the others right",
            measure=as_if_of_two,
        ),
    ]
