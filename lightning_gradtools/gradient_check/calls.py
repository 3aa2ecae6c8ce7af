"""The calls of modules in a forward pass, kept so that each can be made again by itself."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lightning_gradtools.pytree import tree_leaves, tree_map


@dataclass
class Call:
    """One call of a module, and how to make it again."""

    name: str
    module: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    children: list["Call"] = field(default_factory=list)

    def again(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Tensor]:
        """Return the floating-point tensors that the module returns for these arguments.

        The random state is set, so that dropout drops the same each time.
        """
        torch.manual_seed(0)
        # Copies, because a module may work in place.
        given = tree_map(lambda x: x.clone() if isinstance(x, Tensor) else x, (args, kwargs))
        out = self.module(*given[0], **given[1])
        return [leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor) and leaf.is_floating_point()]


def record_calls(module: nn.Module, run: Callable[[], object]) -> list[Call]:
    """Run ``run`` once and return the outermost calls of modules within ``module``, each with its inner ones.

    A module called more than once is recorded at its first call.
    """
    outermost: list[Call] = []
    open_calls: list[Call] = []
    seen: set[int] = set()

    def enter(name: str, layer: nn.Module, args: Any, kwargs: Any) -> None:
        args, kwargs = tree_map(lambda x: x.detach().clone() if isinstance(x, Tensor) else x, (args, kwargs))
        call = Call(name, layer, args, kwargs)
        if id(layer) not in seen:
            seen.add(id(layer))
            (open_calls[-1].children if open_calls else outermost).append(call)
        open_calls.append(call)

    def leave(*_: Any) -> None:
        open_calls.pop()

    hooks = []
    for name, layer in module.named_modules():
        hooks.append(layer.register_forward_pre_hook(partial(enter, name), with_kwargs=True))
        hooks.append(layer.register_forward_hook(leave))
    try:
        run()
    finally:
        for hook in hooks:
            hook.remove()
    return outermost
