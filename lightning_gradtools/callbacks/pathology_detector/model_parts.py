"""Heads, experts and logits of a sampled step, from the taps' tensors to observations."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_gradtools.activations import StepTap
from lightning_gradtools.diagnosis.observation import AttentionObservation, RoutingObservation

Key = tuple[Any, ...]


class ModelParts:
    """What one step showed of attention heads, experts and logits.

    Args:
        tap: the taps, with what they saw.
        shards: number of ranks that share out one batch's activations, and with them the heads.
        device: where to bring what is on another.
    """

    def __init__(self, tap: StepTap, shards: int, device: torch.device) -> None:
        self._shards = shards
        heads = {name: calls for name, calls in tap.heads.items() if len({each.shape for each in calls}) == 1}
        # The sharpest call of a step decides: one that passes no gradient is not made up for by another.
        self._heads = {name: _sharpest(calls) for name, calls in heads.items()}
        self._loads: dict[tuple[str, str], Tensor] = {}
        for each in tap.routed:
            if (load := each.load()) is not None:
                self._loads[each.name, each.members] = load.to(device, torch.float32, non_blocking=True)
        self._logits = torch.stack(tap.log_partitions).mean(0) if tap.log_partitions else None

    def layout(self) -> list[Key]:
        """Return what there is, in words."""
        return [key for key, _ in self._parts()]

    def keep(self, common: Collection[Key]) -> None:
        """Keep only what is in ``common``, that which all ranks have."""
        kept = {key for key, _ in self._parts() if key in common}
        self._heads = {name: each for name, each in self._heads.items() if _heads_key(name, each) in kept}
        self._loads = {names: each for names, each in self._loads.items() if _experts_key(names, each) in kept}
        self._logits = self._logits if ("logits",) in kept else None

    def vectors(self, as_shard: Callable[[Sequence[Tensor]], Tensor]) -> Iterator[tuple[str, Tensor]]:
        """Return [n] by the name of its slot, to be averaged over ranks; ``as_shard`` keeps those of shards apart."""
        yield "heads", as_shard([each.reshape(-1) for each in self._heads.values()])
        yield "loads", torch.cat([*self._loads.values(), *([] if self._loads else [torch.zeros(0)])])
        yield "logits", torch.zeros(0) if self._logits is None else self._logits

    def observed(self, values: Mapping[str, list[float]]) -> dict[str, Any]:
        """Return fields of an observation, from the ``values`` of the slots."""
        found = []
        size = len(values["heads"]) // self._shards
        start = 0
        for name, each in self._heads.items():
            heads = each.shape[1]
            starts = [shard * size + start for shard in range(self._shards)]
            logits = [value for at in starts for value in values["heads"][at : at + heads]]
            entropies = [value for at in starts for value in values["heads"][at + heads : at + 2 * heads]]
            found.append(AttentionObservation(name=name, logits=tuple(logits), entropies=tuple(entropies)))
            start += 2 * heads
        loads = iter(values["loads"])
        routing = [
            RoutingObservation(name=name, experts=members, load=tuple(next(loads) for _ in range(len(each))))
            for (name, members), each in self._loads.items()
        ]
        log_partition, margin = values["logits"] or (None, None)
        return {
            "attention": tuple(found),
            "routing": tuple(routing),
            "log_partition": log_partition,
            "logit_margin": margin,
        }

    def _parts(self) -> Iterator[tuple[Key, Tensor]]:
        for name, each in self._heads.items():
            yield _heads_key(name, each), each
        for names, each in self._loads.items():
            yield _experts_key(names, each), each
        if self._logits is not None:
            yield ("logits",), self._logits


def _heads_key(name: str, heads: Tensor) -> Key:
    return "heads", name, heads.shape[1]


def _experts_key(names: tuple[str, str], load: Tensor) -> Key:
    return "experts", *names, len(load)


def _sharpest(calls: Sequence[Tensor]) -> Tensor:
    if len(calls) == 1:
        return calls[0]
    logits, entropies = torch.stack(list(calls)).unbind(1)
    return torch.stack([logits.amax(0), entropies.amin(0)])
