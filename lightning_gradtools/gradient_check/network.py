"""Which module of a network has a wrong gradient, and which lets samples of a batch into one another."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lightning_gradtools.gradient_check.calls import Call
from lightning_gradtools.gradient_check.directional import DirectionalCheck, check_direction
from lightning_gradtools.pytree import tree_leaves, tree_map


@dataclass(frozen=True)
class WrongGradient:
    """A place whose backward is not the derivative of its forward."""

    name: str
    """The module; empty for what is computed outside of the modules, between them and the loss."""
    kind: str
    """The module's class; ``"the loss"`` outside."""
    check: DirectionalCheck


def find_wrong_gradients(
    loss: Callable[[], Tensor],
    parameters: Sequence[Tensor],
    calls: Sequence[Call],
    *,
    directions: int = 2,
    tolerance: float = 1e-4,
    exclude: Collection[str] = (),
    generator: torch.Generator | None = None,
) -> tuple[WrongGradient, ...]:
    """Return the innermost modules with a wrong gradient, in the order in which they run.

    Every call is checked by itself, on its own inputs and parameters, so that a small part of the network is
    not hidden by the rest: the function is a random combination of its outputs. Of a module that fails, those
    inside are to blame if any of them fails too. The loss as a whole is checked last, along ``directions``
    directions.

    Args:
        loss: of no arguments, the same value each time, all in float64.
        parameters: that require gradients, those the loss is checked in.
        calls: of the modules, in float64.
        directions: random directions for the loss; a module by itself gets one.
        tolerance: see :func:`check_direction`.
        exclude: modules that are meant to have a gradient of their own, such as straight-through estimators.
        generator: the source of randomness.
    """
    found: list[WrongGradient] = []

    def visit(call: Call) -> bool:
        inner = [visit(child) for child in call.children]
        if any(inner):
            return True
        check = _check_call(call, tolerance, generator)
        if check is None or check.passed:
            return False
        if call.name not in exclude:
            found.append(WrongGradient(call.name, type(call.module).__name__, check))
        return True

    failed = [visit(call) for call in calls]
    if not any(failed):
        for _ in range(directions):
            check = _check_twice(loss, parameters, tolerance, generator)
            if not check.passed:
                found.append(WrongGradient("", "the loss", check))
                break
    return tuple(found)


def _check_call(call: Call, tolerance: float, generator: torch.Generator | None) -> DirectionalCheck | None:
    """Check a call in its floating-point inputs and parameters; None if nothing in it has a gradient."""
    variables: list[Tensor] = [p for p in call.module.parameters() if p.requires_grad]

    def leaf(value: Any) -> Any:
        if not (isinstance(value, Tensor) and value.is_floating_point()):
            return value
        variables.append(value.detach().clone().requires_grad_())
        return variables[-1]

    args, kwargs = tree_map(leaf, (call.args, call.kwargs))
    outs = call.again(args, kwargs)
    weights = [
        torch.randn(out.shape, dtype=torch.float64, generator=generator).to(out.device) if out.requires_grad else None
        for out in outs
    ]
    if not variables or not any(out.requires_grad for out in outs):
        return None

    def combined() -> Tensor:
        pairs = zip(call.again(args, kwargs), weights, strict=True)
        return torch.stack([(out * weight).sum() for out, weight in pairs if weight is not None]).sum()

    return _check_twice(combined, variables, tolerance, generator)


def _check_twice(
    function: Callable[[], Tensor],
    variables: Sequence[Tensor],
    tolerance: float,
    generator: torch.Generator | None,
) -> DirectionalCheck:
    check = check_direction(function, variables, tolerance=tolerance, generator=generator)
    if check.passed:
        return check
    return check_direction(function, variables, tolerance=tolerance, generator=generator)


@torch.no_grad()
def find_mixing(calls: Sequence[Call], batch_size: int, *, tolerance: float = 1e-8) -> tuple[str, ...]:
    """Return the innermost modules in which what one sample gets out depends on the other samples.

    The first sample's output must stay when all others are replaced by copies of the second. Looked at are
    calls all of whose tensors have the samples in their first dimension; inside a module that keeps samples
    apart nothing is looked at. Batch normalisation in training mode mixes on purpose and is put into
    evaluation mode meanwhile.

    Args:
        calls: of the modules, in float64.
        batch_size: the number of samples. With less than 3 there is nothing to replace, and nothing is found.
        tolerance: relative to the output's largest value; above the rounding of float64.
    """
    if batch_size < 3:
        return ()

    def replaced(value: Any) -> Any:
        if not isinstance(value, Tensor) or value.dim() == 0:
            return value
        return torch.cat([value[:1], value[1:2].expand(batch_size - 1, *value.shape[1:])])

    def mixes(call: Call) -> bool | None:
        """Return whether a call mixes samples; None if not all its tensors begin with them."""
        given = [leaf for leaf in tree_leaves((call.args, call.kwargs)) if isinstance(leaf, Tensor)]
        if not given or any(tensor.dim() and tensor.shape[0] != batch_size for tensor in given):
            return None
        outs = call.again(call.args, call.kwargs)
        if not outs or any(not out.dim() or out.shape[0] != batch_size for out in outs):
            return None
        others = call.again(*tree_map(replaced, (call.args, call.kwargs)))
        return any(
            bool((out[0] - other[0]).abs().max() > tolerance * out.abs().max())
            for out, other in zip(outs, others, strict=True)
            if out.numel()
        )

    def visit(call: Call) -> list[str]:
        verdict = mixes(call)
        if verdict is False:
            return []
        inner = [name for child in call.children for name in visit(child)]
        return inner or ([call.name] if verdict else [])

    norms = [m for m in _modules(calls) if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.training]
    for norm in norms:
        norm.eval()
    try:
        return tuple(dict.fromkeys(name for call in calls for name in visit(call)))
    finally:
        for norm in norms:
            norm.train()


def _modules(calls: Sequence[Call]) -> list[nn.Module]:
    return [module for call in calls for module in call.module.modules()]
