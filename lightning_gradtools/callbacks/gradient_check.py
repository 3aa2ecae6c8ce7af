"""Checks a module's gradients before training."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn

from lightning_gradtools._lightning.batches import kept
from lightning_gradtools._lightning.fail_safe import Observer, tell
from lightning_gradtools._lightning.probe import stand_in, training_loss, unoptimized
from lightning_gradtools._lightning.strategy import require_whole_gradients
from lightning_gradtools.arguments import integer, number, one_of
from lightning_gradtools.distributed import is_distributed
from lightning_gradtools.gradient_check import WrongGradient, find_mixing, find_wrong_gradients, record_calls
from lightning_gradtools.pytree import tree_leaves, tree_map


class GradientCheckError(RuntimeError):
    """The gradient that training would follow is not the gradient of its loss."""


@dataclass(frozen=True)
class GradientCheckResult:
    """What a check found."""

    wrong: tuple[WrongGradient, ...]
    mixing: tuple[str, ...]
    """The innermost modules in which samples of a batch leak into one another."""
    batch_norms: tuple[str, ...]
    """Batch normalisation in training mode, which mixes samples on purpose."""
    seconds: float
    moved: tuple[str, ...] = ()
    """Trained weights that ``training_step`` changes itself, as by clipping them. At other values than these the loss
    cannot be had, so that it was not compared as a whole; the modules in it were."""

    @property
    def passed(self) -> bool:
        """Whether nothing was found."""
        return not self.wrong and not self.mixing


class GradientCheck(Observer):
    """Checks, before the first step of training, that gradients are right and that samples keep to themselves.

    On a copy of the module in float64 and the first training batch: the gradient of every module called, and
    of the loss, is compared with central differences along random directions
    (:func:`~lightning_gradtools.gradient_check.check_direction`), and the innermost module that is wrong is
    named, first the one that runs first. Then every sample but the first is replaced, and the innermost
    module in which that changes the first one's output is named; batch normalisation in training mode is
    recognised and only mentioned.

    The module's weights, buffers, metrics and mode, the data and the random state are as they were. What
    cannot be checked (manual optimisation, weights split over ranks, an operation without float64, random
    numbers that are not torch's) is said once, and training goes on.

    Logged keys: none. What was found is on the callback, as ``result``.

    Args:
        tolerance: the relative error of a directional derivative that passes.
        directions: random directions for the loss; a module by itself gets one.
        exclude: names of modules that have a gradient of their own on purpose, such as straight-through
            estimators.
        on_failure: ``"raise"`` a :class:`GradientCheckError`, or ``"warn"``.

    Raises:
        ArgumentError: at construction, for a value that cannot work; at fit start, for an unknown module, and for
            strategies that keep whole gradients out of a callback's reach (FSDP1, DeepSpeed).
        GradientCheckError: before the first step, on all ranks if on one, if anything was found and
            ``on_failure="raise"``.
    """

    deliberate = (GradientCheckError,)
    _decided: bool

    def __init__(
        self,
        tolerance: float = 1e-4,
        directions: int = 2,
        exclude: Sequence[str] = (),
        on_failure: str = "raise",
    ) -> None:
        self.tolerance = number("tolerance", tolerance, above=0, below=1)
        self.directions = integer("directions", directions, at_least=1)
        self.exclude = tuple(exclude)
        self.on_failure = one_of("on_failure", on_failure, ["raise", "warn"])
        self.result: GradientCheckResult | None = None
        self.start_fit()

    def reset(self) -> None:
        self.result = None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse what cannot work."""
        require_whole_gradients(trainer, "GradientCheck")
        for name in self.exclude:
            one_of("exclude", name, dict(pl_module.named_modules()))

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Check, with the first batch, whose step has not been taken: the loader need not be asked for it."""
        if self._decided:
            return
        try:
            self.result = self._check(pl_module, kept(batch))
        except Exception as error:  # our own failure must not keep anyone from training
            self.result = None
            tell(f"GradientCheck: cannot check {type(pl_module).__name__}: {error}")
        passed = self.result is None or self.result.passed
        message = "" if self.result is None else _describe(self.result, pl_module)
        # One rank that raises alone would leave the others waiting.
        self._decided = True
        all_passed = trainer.strategy.reduce_boolean_decision(passed, all=True)
        if passed and message:
            rank_zero_info(message)
        if not all_passed:
            message = message if not passed else "GradientCheck: another rank found a wrong gradient"
            if self.on_failure == "raise":
                raise GradientCheckError(message)
            tell(message)

    def take_part(self, hook: str, trainer: Trainer, pl_module: LightningModule) -> None:
        if hook == "on_train_batch_start" and not self._decided:
            self._decided = True
            trainer.strategy.reduce_boolean_decision(True, all=True)

    def start_fit(self) -> None:
        self._decided = False

    def _check(self, pl_module: LightningModule, batch: Any) -> GradientCheckResult:
        if any(map(is_distributed, pl_module.parameters())):
            raise TypeError("its weights are split over ranks")
        start = time.perf_counter()
        with stand_in(pl_module) as copy, _in_float64(copy), torch.enable_grad():
            batch = tree_map(_to_float64, batch)
            generator = torch.Generator().manual_seed(0)

            moved: set[str] = set()

            def loss() -> Tensor:
                put_back()
                torch.manual_seed(0)  # so that dropout drops the same each time
                return training_loss(copy, kept(batch))

            def put_back() -> None:
                now, before = unoptimized(copy), unoptimized(pl_module)
                for name in moved & now.keys():
                    now[name].data.copy_(before[name])

            calls = record_calls(copy, loss)
            moved |= _differing(pl_module, copy)
            if loss().item() != loss().item():
                raise ValueError("its loss on one batch is not the same twice")
            wrong = find_wrong_gradients(
                loss,
                [parameter for parameter in copy.parameters() if parameter.requires_grad],
                calls,
                directions=self.directions,
                tolerance=self.tolerance,
                exclude=self.exclude,
                generator=generator,
            )
            weights = {name for name, _ in copy.named_parameters()} & moved
            trained = {name for name, each in copy.named_parameters() if each.requires_grad} & moved
            if weights - trained and any(not each.name for each in wrong):
                wrong = tuple(each for each in wrong if each.name)
                if not wrong:
                    raise ValueError(
                        f"its training_step moves frozen weights ({min(weights - trained)}) before their use, so that"
                        " its loss follows the trained ones on a way that no gradient shows"
                    )
            sizes = [leaf.shape[0] for leaf in tree_leaves(batch) if isinstance(leaf, Tensor) and leaf.dim()]
            mixing = find_mixing(calls, sizes[0]) if sizes else ()
        batch_norms = tuple(
            name
            for name, module in pl_module.named_modules()
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.training
        )
        return GradientCheckResult(wrong, mixing, batch_norms, time.perf_counter() - start, tuple(sorted(trained)))


def _differing(module: nn.Module, copy: nn.Module) -> set[str]:
    """Return the names of the parameters and buffers that a copy has changed; a count of changes does not see all."""
    before = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    now = {**dict(copy.named_parameters()), **dict(copy.named_buffers())}
    return {name for name, value in before.items() if name in now and not torch.equal(now[name], value.to(now[name]))}


def _to_float64(value: Any) -> Any:
    return value.double() if isinstance(value, Tensor) and value.is_floating_point() else value


@contextmanager
def _in_float64(module: LightningModule) -> Iterator[None]:
    """Compute in float64, also what the module makes itself."""
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        module.double()
        yield
    finally:
        torch.set_default_dtype(default)


def _describe(result: GradientCheckResult, pl_module: LightningModule) -> str:
    """Say what was found, the worst first."""
    name = type(pl_module).__name__
    lines = []
    for wrong in result.wrong:
        place = f"{wrong.name} ({wrong.kind})" if wrong.name else wrong.kind
        check = wrong.check
        lines.append(
            f"GradientCheck: the gradient of {place} in {name} is wrong: off by {check.relative_error:.2g} "
            f"of the central difference (right: at most {check.tolerance:.2g}), Taylor remainder of order "
            f"{check.order:.2f} (right: 2)"
        )
    lines += [f"GradientCheck: samples leak into one another in {module or name}" for module in result.mixing]
    if not lines:
        lines.append(f"GradientCheck: the gradients of {name} are right ({result.seconds:.1f} s)")
    if result.batch_norms:
        lines.append(f"  batch statistics are shared, as meant in training, in {', '.join(result.batch_norms)}")
    if result.moved:
        lines.append(f"  the loss as a whole was not compared, as training_step changes weights ({result.moved[0]})")
    return "\n".join(lines)
