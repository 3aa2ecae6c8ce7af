"""Tensors that are put back after others have worked with them, at the price of a copy of what was written to only."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from lightning_gradtools.distributed import on_this_rank
from lightning_gradtools.pytree import tree_leaves


class CopyOnWrite(TorchDispatchMode):
    """While it is entered, copies each of some tensors just before the first operation that writes to it.

    A tensor's count of changes would not do: what goes through ``.data``, as moving averages and clipping of weights
    mostly do, is not counted. What writes to memory past torch, as a kernel of the user's own, is not seen.

    Args:
        tensors: large ones, of which few or none will be changed.
    """

    supports_higher_order_operators = True

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        super().__init__()
        self._tensors = [(tensor, _place(tensor)) for tensor in tensors]
        self._by_address: dict[int, list[Tensor]] = {}
        for _, place in self._tensors:
            self._by_address.setdefault(_address(place), []).append(place)
        # Of what has no memory of its own, as a sparse tensor, writing is not recognised.
        self._copies = [(place, place.clone()) for place in self._by_address.pop(0, [])]

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run ``func``, having copied what it writes to."""
        kwargs = kwargs or {}
        schema = getattr(func, "_schema", None)  # a higher-order operator has none, and writes to nothing
        if schema is not None and schema.is_mutable:
            for index, argument in enumerate(schema.arguments):
                if argument.alias_info is not None and argument.alias_info.is_write:
                    self._keep(args[index] if index < len(args) else kwargs.get(argument.name))
        return func(*args, **kwargs)

    def _keep(self, written: Any) -> None:
        for tensor in tree_leaves(written):
            if isinstance(tensor, Tensor):
                places = self._by_address.pop(_address(_place(tensor)), [])
                self._copies += [(place, place.clone()) for place in places]

    def put_back(self) -> None:
        """Give each tensor the memory and the values back that it had."""
        for tensor, place in self._tensors:
            _return(tensor, place)
        for place, value in self._copies:
            place.copy_(value)


def copied_back(tensor: Tensor) -> Callable[[], None]:
    """Copy ``tensor``, and return what gives it the memory and the values back that it has now."""
    place = _place(tensor)
    value = place.clone()

    def undo() -> None:
        _return(tensor, place)
        if not torch.equal(place, value):
            place.copy_(value)

    return undo


def _place(tensor: Tensor) -> Tensor:
    """Return the memory of ``tensor``, of a sharded one on this rank, as a tensor that counts no changes."""
    return on_this_rank(tensor).data


def _return(tensor: Tensor, place: Tensor) -> None:
    """Undo ``tensor.data = …``."""
    if on_this_rank(tensor) is tensor and (_address(tensor) != _address(place) or not _address(place)):
        tensor.data = place


def _address(tensor: Tensor) -> int:
    try:
        return tensor.untyped_storage().data_ptr()
    except (RuntimeError, NotImplementedError):  # as of a sparse tensor
        return 0
