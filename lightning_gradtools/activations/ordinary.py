"""Which tensors a tap may look at."""

import torch
from torch import Tensor, nn


def is_ordinary(tensor: Tensor) -> bool:
    """Say whether ``tensor`` is dense and has elements that can be looked at.

    Inside ``vmap`` or ``grad`` a tensor stands for many, and must not outlive the transform.
    """
    return (
        type(tensor) in (Tensor, nn.Parameter)
        and tensor.layout == torch.strided
        and tensor.device.type != "meta"
        and not torch._C._functorch.is_functorch_wrapped_tensor(tensor)
        and tensor.numel() > 0
    )
