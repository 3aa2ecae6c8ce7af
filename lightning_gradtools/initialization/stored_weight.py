"""The weight that a layer works with, however it is stored: as itself, behind a parametrization or behind a hook."""

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

# What torch's older functions leave beside a tensor that they make, behind its name.
_MADE_BY = {"_mask": "pruning", "_u": "spectral_norm", "_g": "weight_norm"}


def stored_in(layer: nn.Module, name: str = "weight") -> tuple[Tensor, ...]:
    """Return the parameters that hold the tensor ``name`` of ``layer``; none if it has no such tensor."""
    if parametrize.is_parametrized(layer, name):
        return tuple(_parametrization(layer, name).parameters())
    own = _own(layer)
    return tuple(own[each] for each in (name, f"{name}_orig", f"{name}_g", f"{name}_v") if each in own)


def constraint_on(layer: nn.Module, name: str = "weight") -> str | None:
    """Name what makes the tensor ``name`` from the parameters that hold it; None if it is a parameter itself."""
    if parametrize.is_parametrized(layer, name):
        maps: Any = _parametrization(layer, name)
        return " and ".join(type(each).__name__.lstrip("_") for each in maps)
    if name in _own(layer) or getattr(layer, name, None) is None:
        return None
    return next((known for end, known in _MADE_BY.items() if hasattr(layer, name + end)), "code of its own")


@torch.no_grad()
def effective(layer: nn.Module, name: str = "weight") -> Tensor | None:
    """Return the tensor ``name`` as the layer uses it in evaluation mode; looking at it changes nothing."""
    with _in_evaluation(layer):
        found = getattr(layer, name, None)
    return found.detach() if isinstance(found, Tensor) else None


@torch.no_grad()
def way_to_hold(layer: nn.Module, name: str, value: Tensor) -> Callable[[], object] | None:
    """Return what makes ``value`` the tensor ``name`` that ``layer`` works with; None if nothing does.

    A parametrization is asked for its ``right_inverse``, and what it makes of that is looked at: one that holds some
    values only (a norm of one, orthogonal columns) may make something else of it. All of this is done on copies.

    Args:
        layer: the layer.
        name: of its tensor.
        value: of the tensor's shape and dtype.
    """
    own = _own(layer)
    if name in own:
        return lambda: own[name].copy_(value)
    if {f"{name}_g", f"{name}_v"} <= own.keys():
        return _through_weight_norm(effective(layer, name), own[f"{name}_g"], own[f"{name}_v"], value)
    if parametrize.is_parametrized(layer, name):
        return _through_right_inverse(_parametrization(layer, name), value)
    return None


def assign_(layer: nn.Module, name: str, value: Tensor) -> bool:
    """Make ``value`` the tensor ``name`` that ``layer`` works with; if it cannot be, change nothing and say False."""
    way = way_to_hold(layer, name, value)
    if way is None:
        return False
    with torch.no_grad():
        way()
    return True


def holds_any_scale(layer: nn.Module, name: str = "weight") -> bool:
    """Say whether ``layer`` could have twice the tensor ``name`` that it has."""
    value = effective(layer, name)
    return value is None or way_to_hold(layer, name, 2 * value) is not None


def _through_weight_norm(
    now: Tensor | None, size: Tensor, direction: Tensor, value: Tensor
) -> Callable[[], None] | None:
    """Set ``size`` and ``direction`` [the shape of ``value``], of which a hook makes ``now``."""
    dims = [dim for dim in range(value.dim()) if size.dim() == 0 or size.shape[dim] == 1]

    def norm(tensor: Tensor) -> Tensor:
        found: Tensor = torch.linalg.vector_norm(tensor, dim=dims, keepdim=size.dim() > 0)
        return found

    new_size = norm(value)
    makes_it_so = now is not None and _is_near(now.to(direction), direction * (size / norm(direction)))
    if not makes_it_so or not _is_near(value * (new_size / norm(value)), value):
        return None

    def put() -> None:
        size.copy_(new_size)
        direction.copy_(value)
        if now is not None:
            now.copy_(value)  # until the hook makes it anew

    return put


def _through_right_inverse(here: parametrize.ParametrizationList, value: Tensor) -> Callable[[], object] | None:
    with _random_state_kept(value.device):  # torch's orthogonal parametrization draws numbers
        try:
            inverse, trial = copy.deepcopy(here).eval(), copy.deepcopy(here).eval()
            inverse.right_inverse(value.clone())
            found = inverse.state_dict()
            trial.load_state_dict(found)
            made = trial()
        except Exception:  # of whatever the user's `right_inverse` is made of, or for want of one
            return None
    # A logarithm of zero holds zero, and nothing could be learned from it.
    finite = all(bool(each.isfinite().all()) for each in trial.parameters())
    return (lambda: here.load_state_dict(found)) if finite and _is_near(made, value) else None


def _is_near(found: Tensor, wanted: Tensor) -> bool:
    if found.shape != wanted.shape:
        return False
    off, size = (tensor.double().square().sum().sqrt().item() for tensor in (found - wanted, wanted))
    return off <= math.sqrt(torch.finfo(wanted.dtype).eps) * size


def _own(layer: nn.Module) -> dict[str, nn.Parameter]:
    return dict(layer.named_parameters(recurse=False, remove_duplicate=False))


def _parametrization(layer: nn.Module, name: str) -> parametrize.ParametrizationList:
    found: Any = layer.parametrizations
    return cast(parametrize.ParametrizationList, found[name])


def _random_state_kept(device: torch.device) -> AbstractContextManager[None]:
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
