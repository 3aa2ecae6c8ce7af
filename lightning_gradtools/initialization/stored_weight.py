"""The weight that a layer works with, however it is stored: as itself, behind a parametrization or behind a hook."""

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.weight_norm import WeightNorm


def stored_in(layer: nn.Module, name: str = "weight") -> tuple[Tensor, ...]:
    """Return the parameters that hold the tensor ``name`` of ``layer``; none if it has no such tensor."""
    if parametrize.is_parametrized(layer, name):
        return tuple(layer.parametrizations[name].parameters())  # type: ignore[index, union-attr]
    names = (name, f"{name}_orig", f"{name}_g", f"{name}_v")
    found = (layer._parameters.get(each) for each in names)
    return tuple(parameter for parameter in found if parameter is not None)


def constraint_on(layer: nn.Module, name: str = "weight") -> str | None:
    """Name what makes the tensor ``name`` from the parameters that hold it; None if it is a parameter itself."""
    if parametrize.is_parametrized(layer, name):
        parametrizations: Any = layer.parametrizations[name]  # type: ignore[index]
        return " and ".join(type(each).__name__.lstrip("_") for each in parametrizations)
    if name in layer._parameters or getattr(layer, name, None) is None:
        return None
    hooks = [each for each in layer._forward_pre_hooks.values() if name in _tensors_of(each)]
    return type(hooks[0]).__name__ if hooks else "code of its own"


@torch.no_grad()
def effective(layer: nn.Module, name: str = "weight") -> Tensor | None:
    """Return the tensor ``name`` as the layer uses it in evaluation mode; looking at it changes nothing."""
    with _in_evaluation(layer):
        hook = _weight_norm_of(layer, name)
        found = getattr(layer, name, None) if hook is None else hook.compute_weight(layer)
    return found.detach() if isinstance(found, Tensor) else None


@torch.no_grad()
def assign_(layer: nn.Module, name: str, value: Tensor) -> bool:
    """Make ``value`` the tensor ``name`` that ``layer`` works with, and say whether it is.

    A parametrization is asked for its ``right_inverse``, and then looked at: one that holds some values only (a norm
    of one, orthogonal columns, zeros where it was pruned) may not have taken this one. Then all is put back.

    Args:
        layer: the layer.
        name: of its tensor.
        value: of the tensor's shape and dtype; the layer may keep it.
    """
    parameter = layer._parameters.get(name)
    if parameter is not None:
        parameter.copy_(value)
        return True
    hook = _weight_norm_of(layer, name)
    if hook is None and not parametrize.is_parametrized(layer, name):
        return False
    put_back = _kept(layer, name)
    with _in_evaluation(layer), _random_state_kept(value.device):
        try:
            if hook is None:
                setattr(layer, name, value.clone())
            else:
                _set_weight_norm(layer, hook, value)
        except Exception:  # of whatever the user's `right_inverse` is made of, or for want of one
            put_back()
            return False
    found = effective(layer, name)
    # A logarithm of zero holds zero, and nothing could be learned from it.
    finite = all(bool(each.isfinite().all()) for each in stored_in(layer, name))
    if found is None or found.shape != value.shape or not (finite and _is_near(found, value)):
        put_back()
        return False
    return True


def holds_any_scale(layer: nn.Module, name: str = "weight") -> bool:
    """Say whether ``layer`` can have twice the tensor ``name``. It is left as it was."""
    value = effective(layer, name)
    if value is None or constraint_on(layer, name) is None:
        return True
    put_back = _kept(layer, name)
    holds = assign_(layer, name, 2 * value)
    put_back()
    return holds


def _is_near(found: Tensor, wanted: Tensor) -> bool:
    off, size = (tensor.double().square().sum().sqrt().item() for tensor in (found - wanted, wanted))
    return off <= math.sqrt(torch.finfo(wanted.dtype).eps) * size


def _tensors_of(hook: object) -> tuple[Any, ...]:
    # As torch's weight_norm, spectral_norm and pruning call the name of the tensor that they make.
    return getattr(hook, "name", None), getattr(hook, "_tensor_name", None)


def _weight_norm_of(layer: nn.Module, name: str) -> WeightNorm | None:
    for hook in layer._forward_pre_hooks.values():
        if isinstance(hook, WeightNorm) and hook.name == name:
            return hook
    return None


def _set_weight_norm(layer: nn.Module, hook: WeightNorm, value: Tensor) -> None:
    size, direction = stored_in(layer, hook.name)
    direction.copy_(value)
    size.copy_(torch.norm_except_dim(value, 2, hook.dim))
    setattr(layer, hook.name, hook.compute_weight(layer))


def _random_state_kept(device: torch.device) -> AbstractContextManager[None]:
    # torch's orthogonal parametrization draws numbers when it is given a value.
    if device.type == "cpu":
        return torch.random.fork_rng(devices=[])
    return torch.random.fork_rng(devices=[device.index or 0], device_type=device.type)


@contextmanager
def _in_evaluation(layer: nn.Module) -> Iterator[None]:
    """Keep parametrizations from what they do in training only: power iterations, noise."""
    modes = [(module, module.training) for module in layer.modules()]
    try:
        for module, _ in modes:
            module.training = False
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def _kept(layer: nn.Module, name: str) -> Callable[[], None]:
    """Return what puts back all that ``layer`` and its parametrizations hold, in the same memory."""
    tables: list[dict[str, Any]] = [
        table for module in layer.modules() for table in (module._parameters, module._buffers)
    ]
    entries = [dict(table) for table in tables]
    tensors = [each for entry in entries for each in entry.values() if each is not None]
    values = [(each, each.detach(), each.detach().clone()) for each in tensors]
    made = vars(layer).get(name)  # by a hook

    def put_back() -> None:
        with torch.no_grad():
            for tensor, memory, value in values:
                tensor.set_(memory)
                tensor.copy_(value)
        for table, entry in zip(tables, entries, strict=True):
            table.update(entry)
        if made is not None:
            vars(layer)[name] = made

    return put_back
