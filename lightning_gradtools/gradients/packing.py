"""Numbers on their way from a device to the host: packed into one vector, and found again by name."""

from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

import torch
from torch import Tensor

from lightning_gradtools.distributed import mean_over_ranks

Name = TypeVar("Name", bound=Hashable)


class Packing(Generic[Name]):
    """Named slots that one transfer brings to the host; those that concern all ranks are reduced together before.

    Every transfer makes the host wait for the device, and every reduction a rank for the others: however many numbers
    there are, this makes one of each.

    Args:
        device: where to pack; None: where the first tensor is.

    Example:
        >>> packing = Packing()
        >>> packing.put("total", torch.tensor(5.0))
        >>> packing.put("parts", torch.tensor([3.0, 4.0]))
        >>> packing.to_host()
        {'total': [5.0], 'parts': [3.0, 4.0]}
    """

    def __init__(self, device: torch.device | None = None) -> None:
        self._device = device
        self._slots: dict[Name, tuple[Tensor, bool]] = {}

    def put(self, name: Name, tensor: Tensor, *, over_ranks: bool = False) -> None:
        """Add a slot.

        Args:
            name: of the slot, not yet taken.
            tensor: [] or [n] of floating point, on any device. Numbers are exact on the host: where float32 and float64
                meet, all are packed as float64.
            over_ranks: whether to reduce it over the ranks, all of which must then put the same slots of the same
                lengths and dtypes in the same order.

        Raises:
            ValueError: if the name is taken, or the tensor is not as above.
        """
        if name in self._slots:
            raise ValueError(f"the slot {name!r} is taken")
        if tensor.ndim > 1 or not tensor.is_floating_point():
            raise ValueError(
                f"the slot {name!r}: must be [] or [n] of floating point, is {tensor.dtype} {tensor.shape}"
            )
        vector = tensor if tensor.ndim else tensor.unsqueeze(0)
        self._slots[name] = vector.detach() if vector.requires_grad else vector, over_ranks

    @property
    def sizes(self) -> dict[Name, int]:
        """The number of elements of each slot, in order."""
        return {name: len(vector) for name, (vector, _) in self._slots.items()}

    def on_device(self, reduce: Callable[[Tensor], Tensor] = mean_over_ranks) -> dict[Name, Tensor]:
        """Return every slot [n] by its name, on one device, those over ranks reduced in one.

        Args:
            reduce: what makes of the vector [k] of all slots ``over_ranks`` that of the ranks together. Not called if
                there are none.
        """
        if not self._slots:
            return {}
        device = self._device or next(iter(self._slots.values()))[0].device
        found = {
            name: vector if vector.device == device else vector.to(device) for name, (vector, _) in self._slots.items()
        }
        shared = [name for name, (_, over_ranks) in self._slots.items() if over_ranks]
        if shared:
            together = reduce(torch.cat([found[name] for name in shared]))
            found.update(zip(shared, together.split([len(found[name]) for name in shared]), strict=True))
        return found

    def to_host(self, reduce: Callable[[Tensor], Tensor] = mean_over_ranks) -> dict[Name, list[float]]:
        """Return the numbers of every slot by its name, in the order in which they were put; ``reduce`` as above."""
        vectors = list(self.on_device(reduce).values())
        if not vectors:
            return {}
        values = (torch.cat(vectors) if len(vectors) > 1 else vectors[0]).tolist()
        found: dict[Name, list[float]] = {}
        start = 0
        for name, size in self.sizes.items():
            found[name] = values[start : start + size]
            start += size
        return found
