"""What a contract tap saw, as one vector for the ranks to average, and back from it."""

from typing import Any

import torch
from torch import Tensor

from lightning_gradtools.activations.contract_tap import ContractTap, TappedCall
from lightning_gradtools.diagnosis.contracts import (
    Contracts,
    FirstInput,
    InputMeasures,
    LossCall,
    LossMeasures,
    names_of,
)

_LOSS, _INPUT = names_of(LossMeasures), names_of(InputMeasures)
_FINGERPRINTS = ("batch", "input", "target")
_MOST = 8  # losses in different places


class ContractSample:
    """The contracts of one sampled step, whose tensors stay on the device until they go with the sample's others.

    Args:
        tap: with what it saw.
        batch_index: index in its epoch of the batch that ended the step.
        sized: whether the training data has a known length.
    """

    def __init__(self, tap: ContractTap, *, sized: bool) -> None:
        self.tap = tap
        self.batch_index = 0
        self.sized = sized

    @property
    def _calls(self) -> list[TappedCall]:
        return list(self.tap.calls.values())[:_MOST]

    @property
    def _prints(self) -> list[str]:
        """The fingerprints there are; none of the batch, none at all."""
        found = self.tap.fingerprints
        return [name for name in _FINGERPRINTS if name in found] if "batch" in found else []

    def layout(self) -> list[tuple[Any, ...]]:
        """Return what this rank has, in words."""
        given = [] if self.tap.input is None else [(self.tap.input.layer, self.tap.input.plain)]
        return [
            *(("loss call", *key) for key in list(self.tap.calls)[:_MOST]),
            *(("first input", *key) for key in given),
            *(("fingerprint", name) for name in self._prints),
        ]

    def vector(self, device: torch.device) -> Tensor:
        """Return [n] all numbers, as long as :meth:`layout` says on every rank."""
        numbers: list[Tensor | None] = []
        for call in self._calls:
            means = call.means()
            numbers += [means.get(name) for name in _LOSS]
        if self.tap.input is not None:
            numbers += [self.tap.input.measures[name] for name in _INPUT]
        numbers += [self.tap.fingerprints[name] for name in self._prints]
        zero = torch.zeros((), device=device)
        scalars = [zero if each is None else each.to(device, torch.float32) for each in numbers]
        return torch.stack(scalars) if scalars else torch.zeros(0, device=device)

    def read(self, step: int, values: list[float]) -> Contracts:
        """Return what ``values``, the numbers of :meth:`vector` on the host, say."""
        rest = iter(values)
        losses = tuple(
            LossCall(
                function=call.function,
                layer=call.layer,
                activations=call.activations,
                outputs=call.outputs,
                constant=call.constant,
                crossed=call.crossed,
                shapes=call.shapes,
                measures=LossMeasures(**{name: next(rest) for name in _LOSS}),
            )
            for call in self._calls
        )
        given, seen = None, self.tap.input
        if seen is not None:
            measures = InputMeasures(**{name: next(rest) for name in _INPUT})
            given = FirstInput(layer=seen.layer, plain=seen.plain, measures=measures)
        return Contracts(
            step=step,
            batch_index=self.batch_index,
            losses=losses,
            input=given,
            fingerprints=tuple(rest),
            sized=self.sized,
        )
