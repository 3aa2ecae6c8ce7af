"""A module whose frozen weights are in half precision, run as the same function in float32."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor
from torch.overrides import TorchFunctionMode

from lightning_gradtools._lightning.probe import Restoration
from lightning_gradtools.distributed import is_distributed
from lightning_gradtools.pytree import tree_map

HALF = (torch.float16, torch.bfloat16)

Precision = Callable[[], AbstractContextManager[Any]]


@contextmanager
def frozen_in_float32(pl_module: LightningModule) -> Iterator[Precision]:
    """Let frozen weights and buffers in half precision be float32 ones, and give the context to run the module in.

    Adapters on a base in half precision (LoRA) are trained in float32, but what the base does to them is rounded to 8
    bits: no eigenvalue survives that to a tolerance of 1e-3, and no difference of gradients. For as long as
    this lasts the base is there in float32 too, and takes three times its room. Afterwards its tensors are the same as
    before, bit by bit.

    Sharded weights stay as they are, because all that FSDP2 gathers together has one dtype.
    """
    halves = [each for each in [*pl_module.parameters(), *pl_module.buffers()] if _is_frozen_half(each)]
    restore = Restoration()
    try:
        for each in halves:
            restore.add(_data_back(each))
            each.data = each.data.float()
        yield _NothingHalf if halves else nullcontext
    finally:
        restore()


def _is_frozen_half(tensor: Tensor) -> bool:
    return tensor.dtype in HALF and not tensor.requires_grad and not is_distributed(tensor)


def _data_back(tensor: Tensor) -> Callable[[], None]:
    data = tensor.data

    def undo() -> None:
        tensor.data = data

    return undo


class _NothingHalf(TorchFunctionMode):
    """Within it, what the module itself casts to half precision is cast to float32 in place of that."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        func = _CASTS.get(func, func)
        args, kwargs = tree_map(_widened, (args, kwargs or {}))
        return func(*args, **kwargs)


_CASTS = {Tensor.half: Tensor.float, Tensor.bfloat16: Tensor.float}


def _widened(leaf: Any) -> Any:
    return torch.float32 if isinstance(leaf, torch.dtype) and leaf in HALF else leaf
