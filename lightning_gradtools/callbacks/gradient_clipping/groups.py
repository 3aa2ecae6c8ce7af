"""Which parameters are clipped together, and what can be done to the gradients of such a group."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import nan

import torch
from lightning.pytorch import Trainer
from torch import Tensor
from torch.optim import Optimizer

from lightning_gradtools._lightning.gradient_pass import GradientPass, optimizer_parameters
from lightning_gradtools._lightning.module import parameter_names
from lightning_gradtools.arguments import ArgumentError, one_of
from lightning_gradtools.gradients.clipping import scale_
from lightning_gradtools.gradients.layers import Patterns, compiled, matches
from lightning_gradtools.gradients.norms import total_norm


@dataclass(frozen=True)
class ClippingGroup:
    """Parameters that are clipped together.

    Attributes:
        name: "optimizer", or "optimizer/group".
        threshold: the limit, or None to leave them as they are.
        members: positions among the parameters that have a gradient; None for all.
    """

    name: str
    threshold: float | None
    members: list[int] | None

    def parameters(self, seen: GradientPass) -> Sequence[Tensor]:
        """Return the group's parameters."""
        parameters = seen.norms.parameters
        return parameters if self.members is None else [parameters[position] for position in self.members]

    def norm(self, seen: GradientPass) -> Tensor:
        """Return the norm [] of the group's gradients before clipping."""
        norms = seen.norms
        return norms.total if self.members is None else total_norm(norms.per_parameter[self.members], norms.norm_type)

    def scale_(self, seen: GradientPass, coefficient: Tensor) -> None:
        """Multiply the group's gradients by ``coefficient`` [], at most 1, and note that in ``seen``."""
        # Where reading costs nothing, a step that needs no clipping is spared the multiplication by 1.
        if not seen.is_free_to_read or coefficient.item() < 1:
            if self.members is None:
                scale_(seen.norms.gradients(), coefficient, seen.norms.plain)
            else:
                scale_(_gradients(self.parameters(seen)), coefficient)
        seen.scaled(coefficient, self.members)

    @contextmanager
    def rewriting(self, seen: GradientPass) -> Iterator[Sequence[Tensor]]:
        """Give the parameters, for clipping that is not one factor for each, with their gradients unscaled."""
        seen.rewrite()
        parameters, scale = self.parameters(seen), seen.loss_scale
        if scale is not None:
            scale_(_gradients(parameters), 1 / scale)
        yield parameters
        if scale is not None:
            # The scaler looks for infinities only in the step, after this: a clamp must not hide them.
            scale_(_gradients(parameters), torch.where(seen.norms.total.isfinite(), scale, nan))


def _gradients(parameters: Sequence[Tensor]) -> list[Tensor]:
    return [each.grad for each in parameters if each.grad is not None]


class ClippingGroups:
    """The clipping groups of every optimizer.

    Args:
        exclude: regular expressions; parameters in whose name one is found are in no group.
        overrides: thresholds by optimizer, ``"1"``, or by parameter group, ``"0/2"``, which is clipped by itself then.

    Raises:
        ArgumentError: if a pattern is not a regular expression.
    """

    def __init__(self, exclude: Patterns, overrides: Mapping[str, float | None]) -> None:
        self._exclude = exclude
        self._patterns = compiled("exclude", exclude)
        self._overrides = overrides
        self._splits_optimizers = bool(self._patterns) or any("/" in key for key in overrides)
        self._excluded: dict[int, bool] = {}  # by the parameter's id

    def start_run(self, trainer: Trainer) -> None:
        """Forget the parameters of another run.

        Raises:
            ArgumentError: if this run has not what an override is for, or ``exclude`` leaves out nothing or all.
        """
        self._excluded.clear()
        groups = {
            f"{index}/{group}"
            for index, optimizer in enumerate(trainer.optimizers)
            for group in range(len(optimizer.param_groups))
        }
        known = [str(index) for index in range(len(trainer.optimizers))] + sorted(groups)
        for key in self._overrides:
            one_of("overrides", key, known)
        if self._patterns:
            self._check_exclude(trainer)

    def _check_exclude(self, trainer: Trainer) -> None:
        # All that the module has, since an optimizer may be given more of it while training goes on.
        names = parameter_names(trainer.lightning_module)
        left_out = [name for name in names.values() if matches(name, self._patterns)]
        if not left_out:
            some = ", ".join(list(names.values())[:3])
            raise ArgumentError(
                f"exclude={self._exclude!r}: must be found in the name of a parameter; the first are {some}"
            )
        elsewhere = any(id(each) not in names for each in _all_parameters(trainer))
        if len(left_out) == len(names) and not (elsewhere and not matches("", self._patterns)):
            raise ArgumentError(
                f"exclude={self._exclude!r}: must leave a parameter to clip; it is found in the names of all"
            )

    def of(
        self, trainer: Trainer, optimizer: Optimizer, index: int, parameters: Sequence[Tensor], threshold: float
    ) -> list[ClippingGroup]:
        """Return the clipping groups of ``optimizer``, the one at ``index``.

        Args:
            trainer: whose module has the names.
            optimizer: may have gained or lost groups since the last step.
            index: its place among the Trainer's.
            parameters: those of it that have a gradient.
            threshold: that of all which no override is for.
        """
        default = self._overrides.get(str(index), threshold)
        if not self._splits_optimizers:
            return [ClippingGroup(str(index), default, None)]
        own = {
            group: self._overrides[f"{index}/{group}"]
            for group in range(len(optimizer.param_groups))
            if f"{index}/{group}" in self._overrides
        }
        if not own and not self._patterns:
            return [ClippingGroup(str(index), default, None)]
        group_of = {
            id(parameter): group
            for group, settings in enumerate(optimizer.param_groups)
            if group in own
            for parameter in settings["params"]
        }
        found: dict[int | None, ClippingGroup] = {}
        for position, parameter in enumerate(parameters):
            if not self._is_excluded(trainer, parameter):
                group = group_of.get(id(parameter))
                name = str(index) if group is None else f"{index}/{group}"
                limit = default if group is None else own[group]
                members = found.setdefault(group, ClippingGroup(name, limit, [])).members
                assert members is not None
                members.append(position)
        return list(found.values())

    def _is_excluded(self, trainer: Trainer, parameter: Tensor) -> bool:
        if not self._patterns:
            return False
        if id(parameter) not in self._excluded:
            names = parameter_names(trainer.lightning_module)
            self._excluded.update({key: matches(name, self._patterns) for key, name in names.items()})
            self._excluded.setdefault(id(parameter), matches("", self._patterns))  # it may be in no module
        return self._excluded[id(parameter)]


def _all_parameters(trainer: Trainer) -> list[Tensor]:
    return [parameter for optimizer in trainer.optimizers for parameter in optimizer_parameters(optimizer)]
