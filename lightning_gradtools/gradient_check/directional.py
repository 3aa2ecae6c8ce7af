"""One directional derivative, by autograd and by central differences."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

# Steps relative to the size of the variables. The large ones show the order of the remainder, the small ones
# step over no kink: of 10^5 ReLUs one changes side within a relative step of 10^-9 in about one case in ten
# thousand.
_STEPS = tuple(10.0**-k for k in range(2, 10))
# How far aside of its point, in the same measure, a function is checked: kinks sit at points that are met in
# practice, such as a bias of zero or the maximum of a constant background.
_ASIDE = 1e-3
# Where a function computes in less than float64 inside, small steps drown in rounding.
_NARROW_STEPS, _NARROW_TOLERANCE = _STEPS[:4], 0.05


@dataclass(frozen=True)
class DirectionalCheck:
    """How a gradient compares with central differences along one random direction."""

    relative_error: float
    """``|central difference - gradient . d|`` relative to the larger of the two. Of two neighbouring steps
    the larger, so that errors which happen to cancel at one step do not pass; of all such pairs the least. NaN
    where the function is not finite nearby, or moves its variables itself, so that nothing can be said."""
    order: float
    """The order of the Taylor remainder ``|f(x + h d) - f(x) - h gradient . d|`` in h: 2 for a right
    gradient, 1 for a
    wrong one, NaN where there is no remainder to measure, as for a linear function."""
    tolerance: float
    """What the error was held against."""

    @property
    def passed(self) -> bool:
        """Whether nothing speaks against the gradient."""
        return not self.relative_error > self.tolerance


def check_direction(
    function: Callable[[], Tensor],
    variables: Sequence[Tensor],
    *,
    tolerance: float = 1e-4,
    generator: torch.Generator | None = None,
) -> DirectionalCheck:
    """Compare the gradient of a function with central differences along one random direction.

    ``(f(x + h d) - f(x - h d)) / (2 h) - gradient . d`` is of order h^2, plus rounding of order 1 / h; it is
    tried for steps from 10^-2 to 10^-9 of the size of x until it is within the tolerance. A kink between the
    two points, as ReLU and max-pooling have them, adds an error that only goes away when the step no longer
    crosses it. The point is displaced by 10^-3 in another random direction, to be off the kinks that lie at
    round values.

    Args:
        function: of no arguments, reads ``variables``, returns a scalar; the same value each time.
        variables: float64 leaves that require gradients; perturbed in place and restored to the last bit.
        tolerance: the relative error that passes. 10^-4 by default, below which "Gradient checks" of
            Stanford's CS231n calls a gradient right even with kinks. Where the function computes in float32
            or less inside, 0.05.
        generator: the source of the direction.
    """
    saved = [x.detach().clone() for x in variables]
    aside, direction = (
        [torch.randn(x.shape, dtype=x.dtype, generator=generator).to(x.device) for x in saved] for _ in range(2)
    )
    size = _norm(saved) / _norm(direction) or 1.0

    @torch.no_grad()
    def places(step: float) -> Iterator[tuple[Tensor, Tensor]]:
        for x, start, a, d in zip(variables, saved, aside, direction, strict=True):
            yield x, start + _ASIDE * size * a + step * size * d

    @torch.no_grad()
    def move(step: float) -> None:
        for x, place in places(step):
            x.copy_(place)

    def at(step: float) -> float:
        move(step)
        with torch.no_grad():
            value = function().item()
        return value if stayed(step) else math.nan

    def stayed(step: float) -> bool:
        """Say whether the function has left its variables alone, unlike one that clips them or rescales their rows."""
        return all(torch.equal(x, place) for x, place in places(step))

    try:
        move(0)
        value = function()
        if not stayed(0):
            return DirectionalCheck(math.nan, math.nan, tolerance)
        gradients = torch.autograd.grad(value, variables, allow_unused=True, materialize_grads=True)
        slope = sum(torch.sum(g * d).item() for g, d in zip(gradients, direction, strict=True)) * size
        # Which |gradient . d| has on average: where d happens to lie across the gradient, slope is no scale.
        usual = math.sqrt(2 / math.pi) * _norm(gradients) * size
        steps = _STEPS
        if _is_narrow(value):
            steps, tolerance = _NARROW_STEPS, max(tolerance, _NARROW_TOLERANCE)
        errors, remainders = list[float](), list[float]()
        for step in steps:
            up, down = at(step), at(-step)
            difference = (up - down) / (2 * step)
            scale = max(abs(slope), abs(difference), 0.1 * usual)
            errors.append(abs(difference - slope) / scale if scale else 0.0)
            remainders.append(abs(up - value.item() - step * slope))
            if len(errors) > 1 and errors[-2] <= tolerance and errors[-1] <= tolerance:
                break
    finally:
        with torch.no_grad():
            for x, start in zip(variables, saved, strict=True):
                x.copy_(start)
    pairs = [max(pair) for pair in pairwise(errors) if all(map(math.isfinite, pair))]
    first, second = remainders[:2]
    measurable = math.isfinite(first) and second > 1e-13 * max(abs(value.item()), abs(slope) * steps[0])
    order = math.log(first / second) / math.log(steps[0] / steps[1]) if measurable and first else math.nan
    return DirectionalCheck(min(pairs, default=math.nan), order, tolerance)


def _is_narrow(value: Tensor) -> bool:
    """Return whether anything between the variables and the value was computed in less than float64."""
    nodes, seen = [value.grad_fn], set[object]()
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if any(output.dtype not in (torch.float64, torch.complex128) for output in node._input_metadata):
            return True
        nodes += [following for following, _ in node.next_functions]
    return False


def _norm(tensors: Sequence[Tensor]) -> float:
    return math.sqrt(sum(tensor.square().sum().item() for tensor in tensors))
