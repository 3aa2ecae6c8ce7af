"""Gradients that are still there when the next ones are added to them, because nobody cleared them."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.optim import Optimizer

from lightning_gradtools._lightning.gradient_pass import optimizer_parameters
from lightning_gradtools.distributed import on_this_rank


@dataclass(frozen=True)
class Carried:
    """Gradients that an optimizer used twice.

    Attributes:
        parameters: those whose gradients they are; none where all was as it should be.
        norm: [] norm of what this rank holds of them, as the first backward pass after the earlier step found them.
    """

    parameters: list[Tensor]
    norm: Tensor | None = None


@dataclass
class _Mark:
    """A gradient as it was at some moment; held, so that another one cannot be taken for it."""

    parameter: Tensor
    gradient: Tensor
    version: int

    def stands(self, rewrites: int = 0) -> bool:
        """Say whether it is the parameter's gradient still, written to at most ``rewrites`` times since."""
        return self.parameter.grad is self.gradient and self.gradient._version <= self.version + rewrites


@dataclass
class _Window:
    """What is left, since an optimizer's step, of the gradients that it used."""

    marks: list[_Mark]
    backward_passes: int = 0
    norm: Tensor | None = None


class CarriedGradients:
    """Follows each optimizer from one of its steps to its next, however many backward passes lie between.

    Whoever clears gradients writes to them or takes them away, before the first backward pass that is to count. So what
    every such pass finds exactly as the step or the pass before it left it was never cleared, whatever the reason for
    several passes a step is: accumulation begins with cleared gradients too, and with several optimizers only an
    optimizer's own steps count. The norm tells gradients that were never there, or cleared in a way that leaves no
    trace (``.data``), from those that were carried over.
    """

    def __init__(self) -> None:
        self._windows: dict[int, _Window] = {}
        self._found: list[Carried] = []

    def clear(self) -> None:
        """Let go of all gradients."""
        self._windows.clear()
        self._found.clear()

    def stop(self) -> None:
        """Follow no optimizer until its next step: something clears gradients that is no part of training."""
        self._windows.clear()

    def after_step(self, optimizer: Optimizer) -> None:
        """Begin to follow ``optimizer``, which has just used its gradients."""
        marks = [
            _Mark(parameter, gradient, gradient._version)
            for parameter in optimizer_parameters(optimizer)
            if (gradient := parameter.grad) is not None
        ]
        self._windows[id(optimizer)] = _Window(marks)

    def before_backward(self) -> None:
        """Keep what nobody has touched since the last step or backward pass."""
        for window in self._windows.values():
            window.marks = [mark for mark in window.marks if mark.stands()]
            if window.marks and not window.backward_passes:
                window.norm = _norm([mark.gradient for mark in window.marks])
            window.backward_passes += 1

    def after_backward(self) -> None:
        """Take what the backward pass added into account."""
        for window in self._windows.values():
            for mark in window.marks:
                mark.version = mark.gradient._version

    def before_step(self, optimizer: Optimizer, by_hand: bool) -> None:
        """Conclude: ``optimizer`` is about to use what is there.

        Args:
            optimizer: that steps.
            by_hand: whether backward passes may have come by unseen; clipping, which writes once, is allowed for.
        """
        window = self._windows.pop(id(optimizer), None)
        if window is None or not window.backward_passes:
            return
        left = [mark for mark in window.marks if (mark.stands(1) if by_hand else mark.parameter.grad is mark.gradient)]
        self._found.append(Carried([mark.parameter for mark in left], window.norm if left else None))

    def take(self) -> list[Carried]:
        """Return what was found since the last call."""
        found, self._found = self._found, []
        return found


@torch.no_grad()
def _norm(gradients: list[Tensor]) -> Tensor:
    here = [on_this_rank(gradient) for gradient in gradients]
    dense = [each.coalesce().values() if each.layout == torch.sparse_coo else each for each in here]
    norms = [torch.linalg.vector_norm(each.float()) for each in dense]
    total: Tensor = torch.linalg.vector_norm(torch.stack([norm.to(norms[0].device) for norm in norms]))
    return total
