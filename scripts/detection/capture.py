"""Every activation that a forward computes, whether a module or a function called it.

A dispatch mode sees the operations themselves, below autograd, so `nn.ReLU`, `F.relu`, `torch.relu`, the inside of
an LSTM cell and of attention all look alike. It shares nothing with hooks on modules.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten
KINDS = {
    aten.relu.default: "relu",
    aten.tanh.default: "tanh",
    aten.sigmoid.default: "sigmoid",
    aten._softmax.default: "softmax",
}
OTHERS = {aten.gelu.default, aten.elu.default, aten.leaky_relu.default, aten.softplus.default, aten.exp.default}


class Activations(TorchDispatchMode):
    """Collects (kind, input, output) of each activation under the path of the module that runs it.

    Args:
        prefix: comes before every path.
    """

    def __init__(self, net: nn.Module, prefix: str = "net") -> None:
        super().__init__()
        self.found: dict[str, list[tuple[str, Tensor, Tensor]]] = defaultdict(list)
        self._running = [prefix]
        self._handles = []
        for name, module in net.named_modules(prefix=prefix):
            self._handles.append(module.register_forward_pre_hook(lambda m, i, name=name: self._running.append(name)))
            self._handles.append(module.register_forward_hook(lambda m, i, o: self._running.pop() and None))

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        output = function(*args, **(kwargs or {}))
        if function in KINDS or function in OTHERS:
            kind = KINDS.get(function, "other")
            self.found[self._running[-1]].append((kind, args[0].detach(), output.detach()))
        return output

    def close(self) -> None:
        """Remove the hooks."""
        for handle in self._handles:
            handle.remove()


@contextmanager
def activations(net: nn.Module) -> Iterator[Activations]:
    """Collect the activations of the forwards inside."""
    mode = Activations(net)
    try:
        with mode, torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
            yield mode
    finally:
        mode.close()


def by_unit(tensor: Tensor) -> Tensor:
    """Return (samples, units): a unit is a channel of an image batch, else an entry of the last dimension."""
    if tensor.ndim == 4:
        return tensor.transpose(1, 3).reshape(-1, tensor.shape[1])
    return tensor.reshape(-1, tensor.shape[-1])
