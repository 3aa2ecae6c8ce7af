"""An observer that fails steps aside: it warns once, by name, and training goes on without it."""

import functools
from collections.abc import Callable
from typing import Any, TypeVar, cast

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.utilities import rank_zero_warn

Hook = TypeVar("Hook", bound=Callable[..., None])


class Observer(Callback):
    """A callback that only looks. Decorate with ``@steps_aside`` each hook that must not stop a training run.

    Attributes:
        failure: the error that made it step aside, or None while it watches. A new ``fit`` tries again.
    """

    failure: Exception | None = None

    def release(self) -> None:
        """Let go of everything held for the run (hooks, copies); called when the observer steps aside."""


def steps_aside(hook: Hook) -> Hook:
    """Make ``hook`` of an :class:`Observer` do nothing once any such hook of it has failed."""

    @functools.wraps(hook)
    def watched(observer: Observer, *args: Any, **kwargs: Any) -> None:
        if observer.failure is not None:
            return
        try:
            hook(observer, *args, **kwargs)
        except Exception as error:
            observer.failure = error
            observer.release()
            rank_zero_warn(
                f"{type(observer).__name__} is off for the rest of this run, training goes on:"
                f" {type(error).__name__} in {hook.__name__}: {error}"
            )

    return cast(Hook, watched)


def logs_at(step: int, log_every_n_steps: int | None, trainer: Trainer) -> bool:
    """Say whether the batch that takes optimizer step ``step`` (counted from 0) is one to log.

    ``None`` follows the Trainer's ``log_every_n_steps``, of which 0 means never.
    """
    every: int = trainer.log_every_n_steps if log_every_n_steps is None else log_every_n_steps  # type: ignore[attr-defined]
    return every > 0 and ((step + 1) % every == 0 or trainer.should_stop)
