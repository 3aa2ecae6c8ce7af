"""What a sampled step shows of the training loop itself, from tensors to a LoopObservation."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lightning_gradtools._lightning.carried_gradients import Carried
from lightning_gradtools.diagnosis.loop_observation import LoopObservation
from lightning_gradtools.distributed import on_this_rank

_HALF = (torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class LowPrecision:
    """Weights of few digits around a step, in which a small change may be rounded away.

    Only under torch's own optimizers, which keep no weights but these: others may add changes up elsewhere, in master
    weights or a compensation, or round at random.

    Attributes:
        parameters: dense ones in half precision that got a gradient, by position.
        zeros: [] number of their elements whose gradient is zero.
    """

    parameters: dict[int, Tensor]
    zeros: Tensor

    @classmethod
    @torch.no_grad()
    def before_step(cls, optimizer: torch.optim.Optimizer, parameters: Sequence[Tensor]) -> "LowPrecision | None":
        """Count what ``optimizer`` has no reason to change; None without low precision or with another's optimizer."""
        if not type(optimizer).__module__.startswith("torch.optim."):
            return None
        low = {
            position: parameter
            for position, parameter in enumerate(parameters)
            if parameter.dtype in _HALF and parameter.grad is not None and parameter.grad.layout == torch.strided
        }
        if not low:
            return None
        zeros = [(on_this_rank(each.grad) == 0).sum() for each in low.values() if each.grad is not None]
        return cls(parameters=low, zeros=torch.stack([each.to(zeros[0].device) for each in zeros]).sum())

    @torch.no_grad()
    def lost(self, old: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Return [] at least how many elements with a gradient are as in ``old``, and how many have a gradient.

        Each element without a gradient is taken to be one of those that did not change.
        """
        pairs = [(on_this_rank(new), on_this_rank(old[position])) for position, new in self.parameters.items()]
        same = [(new == before).sum().to(self.zeros.device) for new, before in pairs]
        size = sum(new.numel() for new, _ in pairs)
        return (torch.stack(same).sum() - self.zeros).clamp(min=0).float(), (size - self.zeros).float()

    @property
    def precision(self) -> str:
        """The name of the precision."""
        return str(next(iter(self.parameters.values())).dtype).removeprefix("torch.")


@dataclass
class LoopSample:
    """What one sampled step shows of the loop.

    Attributes:
        names: plain names of parameters, by ``id``.
        low: by the optimizer's id, its weights in low precision with copies from before its step.
    """

    names: Mapping[int, str]
    low: dict[int, tuple[LowPrecision, Sequence[Tensor]]] = field(default_factory=dict)
    _uncleared: tuple[str, ...] | None = None
    _left_over: Tensor | None = None
    _evaluating: tuple[str, ...] = ()
    _unoptimized: dict[str, Tensor] = field(default_factory=dict)  # norms of gradients
    _unoptimized_elements: int = 0
    _share: float = 0.0

    @torch.no_grad()
    def see_unoptimized(self, parameters: Iterable[Tensor]) -> None:
        """Take in parameters in no optimizer, whose gradients are there now."""
        for parameter in parameters:
            name, gradient = self.names.get(id(parameter), ""), parameter.grad
            if gradient is not None and gradient.layout == torch.strided and name not in self._unoptimized:
                self._unoptimized[name] = torch.linalg.vector_norm(on_this_rank(gradient).float())
                self._unoptimized_elements += parameter.numel()

    def see_carried(self, carried: Sequence[Carried]) -> None:
        """Take in what optimizers used twice."""
        if not carried:
            return
        names = [self.names.get(id(each), "") for one in carried for each in one.parameters]
        self._uncleared = tuple(dict.fromkeys(names))
        norms = [each.norm for each in carried if each.norm is not None]
        if norms:
            self._left_over = torch.stack([norm.to(norms[0].device) for norm in norms]).max()

    def see_modes(self, evaluating: Sequence[str], trained_elements: int) -> None:
        """Take in modules in evaluation mode, and how many elements of parameters are trained."""
        self._evaluating = tuple(evaluating)
        self._share = self._unoptimized_elements / max(1, self._unoptimized_elements + trained_elements)

    def numbers(self, device: torch.device) -> list[Tensor]:
        """Return 0-d tensors to be averaged over ranks, always as many."""
        unoptimized = list(self._unoptimized.values())
        zero = torch.zeros((), device=device)
        lost = [low.lost(old) for low, old in self.low.values()]
        return [
            zero if self._left_over is None else self._left_over,
            torch.stack([norm.to(device) for norm in unoptimized]).square().sum().sqrt() if unoptimized else zero,
            torch.stack([same.to(device) for same, _ in lost]).sum() if lost else zero,
            torch.stack([size.to(device) for _, size in lost]).sum() if lost else zero,
        ]

    def layout(self) -> list[tuple[Any, ...]]:
        """Return what is known in words, which all ranks have to agree on."""
        known = [("uncleared is known",)] if self._uncleared is not None else []
        words = {"uncleared": self._uncleared or (), "evaluating": self._evaluating, "unoptimized": self._unoptimized}
        return [*known, *((about, name) for about, names in words.items() for name in names)]

    def keep(self, common: Collection[tuple[Any, ...]]) -> None:
        """Keep only what is ``common`` to all ranks."""
        self._evaluating = tuple(each for each in self._evaluating if ("evaluating", each) in common)
        self._unoptimized = {x: norm for x, norm in self._unoptimized.items() if ("unoptimized", x) in common}
        known = ("uncleared is known",) in common
        left = tuple(each for each in self._uncleared or () if ("uncleared", each) in common)
        self._uncleared = left if known else None

    def observe(self, numbers: Sequence[float], apart: Sequence[str], spread: float) -> LoopObservation:
        """Return it, with what :meth:`numbers` became, as an observation.

        Args:
            numbers: on the host, of all ranks.
            apart: parameters that differ between ranks.
            spread: by how much.
        """
        left_over, unoptimized, lost, size = numbers
        return LoopObservation(
            uncleared=self._uncleared if left_over > 0 or self._uncleared is None else (),
            left_over=left_over,
            evaluating=self._evaluating,
            unoptimized=tuple(self._unoptimized) if unoptimized > 0 else (),
            unoptimized_share=self._share,
            unoptimized_norm=unoptimized,
            apart=tuple(apart),
            spread=spread,
            lost=lost / size if size > 0 else None,
            precision=next(iter(self.low.values()))[0].precision if size > 0 else "",
        )
