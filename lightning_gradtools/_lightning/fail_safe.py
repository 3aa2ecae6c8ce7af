"""Nothing of ours that watches a run may stop it: the guard through which every hook, tap and tensor hook runs.

What raises is caught, said once by the rank on which it happened, and switched off. With several ranks one that failed
goes on taking part in what they do together, and says so there: at the next point where they meet anyway all switch off
together, so that none waits for another. The error is kept as text, since a traceback would keep every frame and graph.
"""

import functools
import logging
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, TypeVar

from lightning.pytorch import Callback, LightningModule, Trainer

from lightning_gradtools._lightning.gradient_pass import forget_passes
from lightning_gradtools._lightning.loop import is_broken_off
from lightning_gradtools.arguments import ArgumentError, described
from lightning_gradtools.distributed import gather_objects, rank, world_size

_log = logging.getLogger("lightning_gradtools")

Result = TypeVar("Result")

_LONGEST = 500  # characters of an error's text


def attempt(name: str, where: str, function: Callable[..., Result], *args: Any, **kwargs: Any) -> Result:
    """Call ``function``. All that is guarded is called here, and nothing else: a test makes each in turn raise.

    Args:
        name: whose guard it is.
        where: which of its calls.
        function: what to call with the rest.
    """
    return function(*args, **kwargs)


class Whole:
    """A function, and whether it went through: what it does together with other ranks is then done on this one too.

    Args:
        function: called as this is.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self.done = False

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        result = self._function(*args, **kwargs)
        self.done = True
        return result


def tell(message: str) -> None:
    """Warn on this rank, also where the user has made warnings errors: then the message is logged instead."""
    try:
        warnings.warn(message, stacklevel=2)
    except Warning:
        _log.error(message)


class FailSafe:
    """The guard of one callback.

    Args:
        name: what the warning calls it.
        release: lets go of what it holds for the run; called when it fails.

    Attributes:
        failure: what switched it off, on all ranks, as text; None while it works.
        failed_here: what went wrong on this rank and is not yet known to the others; None with one rank.
    """

    def __init__(self, name: str, release: Callable[[], None] | None = None) -> None:
        self.name = name
        self._release = release
        self.failure: str | None = None
        self.failed_here: str | None = None

    @property
    def is_off(self) -> bool:
        """Whether this rank does its part no more."""
        return self.failure is not None or self.failed_here is not None

    def renew(self) -> None:
        """Start over: another fit has begun."""
        self.failure = self.failed_here = None

    def run(self, function: Callable[..., Result], *args: Any, **kwargs: Any) -> Result | None:
        """Return ``function(*args, **kwargs)``, or None if the guard is off or that raises."""
        return self.wrap(function)(*args, **kwargs)

    def wrap(self, function: Callable[..., Result]) -> Callable[..., Result | None]:
        """Return ``function`` as a hook for others to call, guarded as by :meth:`run`."""
        where = getattr(function, "__name__", type(function).__name__)

        def guarded(*args: Any, **kwargs: Any) -> Result | None:
            if self.failure is None and self.failed_here is None:
                try:
                    return attempt(self.name, where, function, *args, **kwargs)
                except Exception as error:
                    self.fail(where, error)
            return None

        return guarded

    @contextmanager
    def section(self, where: str) -> Iterator[None]:
        """Guard the body of a ``with``, for clean-up that has to be tried whether or not the guard is off."""
        try:
            yield
            attempt(self.name, where, _nothing)
        except Exception as error:
            if not self.is_off:
                self.fail(where, error)

    def fail(self, where: str, error: Exception) -> None:
        """Switch off, and say why."""
        text = f"{type(error).__name__} in {where}: {_text_of(error)}"
        several = world_size() > 1
        if several:
            self.failed_here = text
        else:
            self.failure = text
        here = f" on rank {rank()}" if several else ""
        tell(f"{self.name}{here} is off for the rest of this run, training goes on: {text}")
        self.let_go()

    def agree(self, anyone_failed: bool) -> None:
        """Switch off on this rank, if ``anyone_failed``: the ranks have met, and all of them know."""
        if anyone_failed and self.failure is None:
            self.failure = self.failed_here or "it failed on another rank"
            self.let_go()

    def let_go(self) -> None:
        """Release what is held. Not an attempt like others: without it something would be left behind."""
        if self._release is not None:
            try:
                self._release()
            except Exception as error:
                tell(f"{self.name}: could not let go of everything: {type(error).__name__}: {_text_of(error)}")


def _nothing() -> None:
    pass


def _text_of(error: BaseException) -> str:
    try:
        return str(error)[:_LONGEST]
    except Exception:  # an exception class of the user's may fail at this too
        return "(its text cannot be had)"


_HOOKS = frozenset(name for name in dir(Callback) if name.startswith("on_")) | {
    "setup",
    "teardown",
    "state_dict",
    "load_state_dict",
}
_MAY_REFUSE = ("setup", "on_fit_start")


class Observer(Callback):
    """A callback that only looks. Every hook that a subclass defines goes through its guard.

    What a subclass defines besides hooks of Lightning's:

    - :meth:`release`: lets go of all that is held for the run;
    - :meth:`start_fit`: gets ready for a fit;
    - :meth:`reset`: forgets what was found, because the same object has met another run;
    - :meth:`take_part`: what a rank on which it failed still does so that others need not wait;
    - :meth:`state_of_rank`: what of its state differs between ranks.

    An :class:`~lightning_gradtools.arguments.ArgumentError` of ``setup`` and ``on_fit_start`` refuses the run, and
    is raised; so is what the class lists as ``deliberate``.
    """

    deliberate: ClassVar[tuple[type[Exception], ...]] = ()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name in _HOOKS & cls.__dict__.keys():
            setattr(cls, name, _guarded(cls.__dict__[name], (ArgumentError,) if name in _MAY_REFUSE else ()))

    def __repr__(self) -> str:
        return described(self)

    @property
    def guard(self) -> FailSafe:
        """The guard of all its hooks."""
        guard: FailSafe | None = self.__dict__.get("_guard")
        if guard is None:  # made at first use: a subclass need not call `__init__`
            guard = self.__dict__["_guard"] = FailSafe(type(self).__name__, self.release)
        return guard

    @property
    def failure(self) -> str | None:
        """What switched it off in this run, as text; None while it works."""
        return self.guard.failure or self.guard.failed_here

    def release(self) -> None:
        """Let go of everything held for the run (hooks, copies)."""

    def start_fit(self) -> None:
        """Be ready for a fit, of a new run or an old one.

        What tells whether ranks have met belongs here: it outlives a failure, unlike what :meth:`release` lets go of.
        """

    def reset(self) -> None:
        """Forget what was found in another run."""

    def take_part(self, hook: str, trainer: Trainer, pl_module: LightningModule) -> None:
        """Join what the other ranks do together in ``hook``, having failed on this one."""

    def state_of_rank(self) -> Any:
        """Return what of the state is this rank's own, of which a checkpoint, written by one rank, knew nothing else.

        With several ranks each one's is in the state under ``"ranks"``.
        """

    def load_states_of_ranks(self, states: Sequence[Any]) -> None:
        """Keep the states of all ranks until it is known which this one is."""
        self.__dict__["_states_of_ranks"] = states

    def own_state(self, trainer: Trainer, joined: Callable[[Sequence[Any]], Any] | None = None) -> Any:
        """Return once what this rank's :meth:`state_of_rank` was.

        Args:
            trainer: the run.
            joined: what makes of the states of more or fewer ranks than there are now that of each; by default there is
                none then.
        """
        states = self.__dict__.pop("_states_of_ranks", None)
        if states is None or None in states:
            return None
        if len(states) == trainer.world_size:
            return states[trainer.global_rank]
        return None if joined is None else joined(states)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Put each rank's own state into the checkpoint. Outside the guard, as ranks wait for each other in it."""
        if trainer.world_size == 1 or self.guard.failure is not None or is_broken_off(trainer):
            return
        if type(self).state_of_rank is not Observer.state_of_rank:
            states = gather_objects(self.guard.run(self.state_of_rank))
            state = checkpoint["callbacks"].get(self.state_key)
            if state is not None:
                state["ranks"] = states

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Begin a run: forget one before, unless this goes on with it. A checkpoint's state comes after this."""
        if stage == "fit":
            forget_passes(trainer)
            self.guard.renew()
            self.guard.let_go()
            self.guard.run(self.start_fit)
            self.__dict__.pop("_states_of_ranks", None)
            if trainer.global_step == 0:
                self.guard.run(self.reset)


def _guarded(hook: Callable[..., Any], passing: tuple[type[Exception], ...]) -> Callable[..., Any]:
    @functools.wraps(hook)
    def guarded(observer: Observer, *args: Any, **kwargs: Any) -> Any:
        guard, whole = observer.guard, Whole(hook)
        if hook.__name__ == "state_dict" and guard.is_off:
            return _last_state(hook, observer)
        if guard.failure is not None:
            return None
        if guard.failed_here is None:
            try:
                return attempt(guard.name, hook.__name__, whole, observer, *args, **kwargs)
            except (*passing, *observer.deliberate):
                raise
            except Exception as error:
                guard.fail(hook.__name__, error)
        if guard.failed_here is not None and not whole.done and len(args) >= 2:
            try:
                observer.take_part(hook.__name__, *args[:2])
            except Exception as error:
                tell(f"{guard.name}: a rank that failed could not tell the others: {_text_of(error)}")
        return None

    return guarded


def _last_state(state_dict: Callable[..., Any], observer: Observer) -> Any:
    """Return what an observer that is off knew: a checkpoint saved after that keeps it."""
    try:
        return state_dict(observer)
    except Exception:  # which may be what switched it off, and was told
        return None


def restore_state(
    name: str,
    state: Mapping[str, Any],
    readers: Mapping[str, Callable[[Any], None]],
    optional: Collection[str] = (),
) -> None:
    """Give each entry of a callback's saved ``state`` to its reader.

    What is missing, unknown or unreadable, because another version saved it, is said in one line; the rest is kept.

    Args:
        name: the callback.
        state: what its ``state_dict`` returned; ``version`` is for people.
        readers: by key, what takes the entry.
        optional: keys that need not be there.
    """
    wrong = [f"{key!r} is missing" for key in readers.keys() - state.keys() - set(optional)]
    wrong += [f"{key!r} is unknown" for key in state.keys() - readers.keys() - {"version"}]
    for key, read in readers.items():
        if key in state:
            try:
                read(state[key])
            except Exception as error:  # whatever a reader makes of another version's entry
                wrong.append(f"{key!r} cannot be read ({type(error).__name__}: {_text_of(error)})")
    if wrong:
        tell(f"{name}: of its state in the checkpoint {', '.join(sorted(wrong))}; the rest is taken over")
