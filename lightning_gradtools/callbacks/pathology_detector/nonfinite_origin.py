"""Where the first NaN or infinity of a step comes from: the step again, on a copy, module by module."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from lightning_gradtools._lightning.probe import as_in_training, stand_in, training_loss
from lightning_gradtools.distributed import is_distributed
from lightning_gradtools.pytree import tree_flatten_with_path, tree_leaves


@dataclass
class _Call:
    """One call of a module, and whether its values were finite."""

    name: str
    inputs: bool
    outputs: bool
    returned: bool | None = None  # gradient of the loss with respect to the output
    passed_on: bool | None = None  # and with respect to the inputs


@dataclass(frozen=True)
class Origin:
    """Where the first non-finite value came from; see ``NonfiniteEvent`` in ``diagnosis/observation.py``."""

    direction: str
    layer: str = ""
    detail: str = ""


def finite(value: Any) -> bool:
    """Say whether all floating-point tensors in ``value`` are free of NaN and infinity. The host waits."""
    return all(
        bool(torch.isfinite(leaf).all())
        for leaf in tree_leaves(value)
        if isinstance(leaf, Tensor) and leaf.is_floating_point()
    )


def find_in_parameters(module: nn.Module, optimizers: list[torch.optim.Optimizer]) -> Origin | None:
    """Return which weights the step before left non-finite, and whether its gradient was; None if all are finite.

    An optimizer's moments are averages of gradients: where they are non-finite, a gradient was. Where they are finite
    and the weight is not, the update was the first.
    """
    bad = [(name, parameter) for name, parameter in module.named_parameters() if not finite(parameter.detach())]
    if not bad:
        return None
    states = [optimizer.state.get(parameter, {}) for optimizer in optimizers for _, parameter in bad]
    moments = [leaf for leaf in tree_leaves(states) if isinstance(leaf, Tensor) and leaf.dim()]
    direction = "optimizer update" if moments and finite(moments) else "backward"
    names = [name.rpartition(".")[0] for name, _ in bad]
    detail = f"the step before left {len(bad)} of the weights non-finite, first {bad[0][0]}"
    return Origin(direction, names[0] if direction == "optimizer update" or len(bad) == 1 else "", detail)


def search(pl_module: LightningModule, batch: Any) -> Origin:
    """Run the training step of ``batch`` once more, on a copy, and return where it first turns non-finite.

    Of the modules without children, the first in order whose inputs are finite and whose output is not; in the backward
    pass the first (the last in forward order) that receives a finite gradient and passes on one that is not.
    """
    unsafe = any(map(is_distributed, pl_module.parameters())) or any(
        isinstance(m, nn.SyncBatchNorm) for m in pl_module.modules()
    )
    if unsafe:
        return Origin("unknown", detail="running one rank's step alone would leave the others waiting")
    calls: list[_Call] = []
    with stand_in(pl_module) as twin, torch.enable_grad():
        for name, module in twin.named_modules():
            if name and next(module.children(), None) is None:
                module.register_forward_hook(partial(_record, calls, name))
        with as_in_training(twin):
            loss = training_loss(twin, batch)
        if not finite(loss):
            return _in_forward(calls, batch)
        loss.sum().backward()
        bad = [name for name, parameter in twin.named_parameters() if not finite(parameter.grad)]
    return _in_backward(calls, bad)


def _record(calls: list[_Call], name: str, _: nn.Module, args: tuple[Any, ...], out: Any) -> None:
    call = _Call(name, finite(args), finite(out))
    calls.append(call)

    def returned(gradient: Tensor) -> None:
        call.returned = call.returned is not False and finite(gradient)

    def passed_on(gradient: Tensor) -> None:
        call.passed_on = call.passed_on is not False and finite(gradient)

    for leaf in tree_leaves(out):
        if isinstance(leaf, Tensor) and leaf.requires_grad:
            leaf.register_hook(returned)
    for leaf in tree_leaves(args):
        if isinstance(leaf, Tensor) and leaf.requires_grad and not leaf.is_leaf:
            leaf.register_hook(passed_on)


def _in_forward(calls: list[_Call], batch: Any) -> Origin:
    for place, leaf in tree_flatten_with_path(batch)[0]:
        if isinstance(leaf, Tensor) and leaf.is_floating_point() and not finite(leaf):
            rows = (~torch.isfinite(leaf.flatten(1) if leaf.dim() > 1 else leaf.reshape(-1, 1))).any(1).nonzero()
            path = "".join(map(str, place))
            return Origin("input data", detail=f"batch{path} is not finite in samples {rows.flatten().tolist()[:10]}")
    for call in calls:
        if call.inputs and not call.outputs:
            return Origin("forward", call.name, "its inputs are finite and its output is not")
    for before, call in zip([None, *calls], calls, strict=False):
        if not call.inputs:
            layer = before.name if before else ""
            return Origin("forward", layer, f"between {layer or 'the input'} and {call.name}, outside any module")
    return Origin("loss", detail="every module's output is finite and the loss is not")


def _in_backward(calls: list[_Call], bad: list[str]) -> Origin:
    for call in reversed(calls):
        if call.returned is False:  # the gradient was non-finite before it came here
            later = calls[calls.index(call) + 1 :]
            reached = [each for each in later if each.returned]
            if not reached:
                return Origin("backward", call.name, "in what comes after this module: the loss itself")
            return Origin("backward", reached[0].name, f"it receives a finite gradient and {call.name} does not")
        own = [name for name in bad if name.rpartition(".")[0] == call.name]
        if call.returned and (call.passed_on is False or own):
            return Origin("backward", call.name, "it receives a finite gradient and passes on one that is not")
    if bad:
        return Origin("backward", bad[-1].rpartition(".")[0], f"the gradient of {bad[-1]} is not finite")
    return Origin("unknown", detail="the step was finite when it was run again")
