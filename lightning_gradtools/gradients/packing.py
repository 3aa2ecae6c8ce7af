"""Several vectors in one, by name: for one reduction over ranks, or one transfer to the host."""

from collections.abc import Iterable

import torch
from torch import Tensor


class Packing:
    """Named slots of one flat vector.

    Args:
        device: of the vector; left out, that of the first slot.
        dtype: of the vector; left out, the one to which all slots promote.
    """

    def __init__(self, device: torch.device | None = None, dtype: torch.dtype | None = None) -> None:
        self._device, self._dtype = device, dtype
        self._slots: dict[str, Tensor] = {}

    def put(self, name: str, values: Tensor | Iterable[Tensor]) -> None:
        """Add a slot: a tensor of any shape, which is flattened, or several of shape [].

        Raises:
            ValueError: if there is a slot of this name.
        """
        if name in self._slots:
            raise ValueError(f"name={name!r}: must be new, there is such a slot")
        if not isinstance(values, Tensor):
            scalars = [self._placed(each.detach()) for each in values]
            values = torch.stack(scalars) if scalars else torch.zeros(0, device=self._device, dtype=self._dtype)
        self._slots[name] = self._placed(values.detach().reshape(-1))

    def _placed(self, tensor: Tensor) -> Tensor:
        if self._device is None:
            self._device = tensor.device
        return tensor.to(self._device, self._dtype or tensor.dtype)

    @property
    def sizes(self) -> dict[str, int]:
        """The number of elements of each slot, in order."""
        return {name: len(values) for name, values in self._slots.items()}

    def flat(self) -> Tensor:
        """Return all slots in one vector."""
        return torch.cat(list(self._slots.values())) if self._slots else torch.zeros(0)

    def unpack(self, flat: Tensor) -> dict[str, Tensor]:
        """Return the slots of a vector laid out as :meth:`flat` is, such as its sum over ranks."""
        return dict(zip(self._slots, flat.split(list(self.sizes.values())), strict=True))

    def to_host(self) -> dict[str, list[float]]:
        """Return every slot as numbers, in one transfer, for which the host waits once."""
        values, found, start = self.flat().tolist(), {}, 0
        for name, size in self.sizes.items():
            found[name] = values[start : start + size]
            start += size
        return found
