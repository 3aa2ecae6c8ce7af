"""What is asked of a module, and the only writer of functions into its ``__dict__``."""

import copy
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import nn

Module = TypeVar("Module", bound=nn.Module)

# What torch.compile, FSDP1 and activation checkpointing put into the paths of what they wrap.
_WRAPPERS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")


def plain_name(name: str) -> str:
    """Return the path of a module or parameter without what wrappers put into it."""
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)


def parameter_names(module: nn.Module) -> dict[int, str]:
    """Return the plain name of every parameter by its ``id``; a tied weight has the first of its names."""
    return {id(parameter): plain_name(name) for name, parameter in module.named_parameters()}


def plain_modules(module: nn.Module) -> dict[str, nn.Module]:
    """Return all submodules by their plain names; of a wrapper and what it wraps, what it wraps."""
    return {plain_name(name): submodule for name, submodule in module.named_modules()}


def is_compiled(module: nn.Module) -> bool:
    """Say whether torch.compile has been given ``module`` or a part of it."""
    return getattr(module, "_compiler_ctx", None) is not None or any(
        type(each).__name__ == "OptimizedModule" or getattr(each, "_compiled_call_impl", None) is not None
        for each in module.modules()
    )


_ABSENT = object()


class Patch:
    """A function that stands in the place of a method of one object; see :func:`patched`.

    A copy of its owner, or what comes back from a pickle of it, has the method itself in this place.
    """

    def __init__(self, owner: Any, name: str, function: Callable[..., Any], below: Any) -> None:
        self._owner, self._name, self._function = owner, name, function
        self.below = below  # what stood in the owner's __dict__ before: the user's own, or another patch

    @property
    def __wrapped__(self) -> Callable[..., Any]:
        """What stands below; Lightning looks here for the signature, and for whether a hook is overridden."""
        found: Callable[..., Any] = self.below
        return getattr(type(self._owner), self._name).__get__(self._owner) if self.below is _ABSENT else found

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function with what it replaces, and the arguments."""
        return self._function(self.__wrapped__, *args, **kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        """Return, for a copy of the owner, what the owner has without patches."""
        original = self.original
        if original is not _ABSENT:
            return copy.deepcopy(original, memo)
        return getattr(type(self._owner), self._name).__get__(memo.get(id(self._owner), self._owner))

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle what the owner has without patches."""
        original = self.original
        return (getattr, (self._owner, self._name)) if original is _ABSENT else (_itself, (original,))

    @property
    def original(self) -> Any:
        """What stands below all patches, :data:`_ABSENT` if that is the class's method."""
        below = self.below
        while isinstance(below, Patch):
            below = below.below
        return below

    def remove(self) -> None:
        """Take it off, whatever has been put above it since; again is no error."""
        attributes = vars(self._owner)
        above, top = None, attributes.get(self._name)
        while isinstance(top, Patch) and top is not self:
            above, top = top, top.below
        if top is not self:
            return
        if above is not None:
            above.below = self.below
        elif self.below is _ABSENT:
            del attributes[self._name]
        else:
            attributes[self._name] = self.below


def _itself(value: Any) -> Any:
    return value


def patched(owner: Any, name: str, function: Callable[..., Any]) -> Patch:
    """Put ``function`` in the place of the method ``name`` of ``owner`` alone; ``remove()`` takes it off again.

    Patches stack, and come off in any order. One of the user's own in the same place stays below and is put back.

    Args:
        owner: a module, or a strategy.
        name: of its method.
        function: called with what stood there and then the arguments.
    """
    patch = Patch(owner, name, function, vars(owner).get(name, _ABSENT))
    vars(owner)[name] = patch
    return patch


@contextmanager
def without_patches(module: nn.Module) -> Iterator[None]:
    """Let ``module`` be as its user made it, for a probe or a dump."""
    tops = {name: value for name, value in vars(module).items() if isinstance(value, Patch)}
    try:
        for name, patch in tops.items():
            original = patch.original
            if original is _ABSENT:
                del vars(module)[name]
            else:
                vars(module)[name] = original
        yield
    finally:
        vars(module).update(tops)


def copied(module: Module) -> Module:
    """Return a deep copy of ``module`` that works on its own.

    Weights that torch's older ``weight_norm`` and pruning compute anew in each forward pass are no leaves, which cannot
    be copied; nor is what ``torch.compile`` puts on a LightningModule, which would go on running the original.
    """
    made = [value for each in module.modules() for value in vars(each).values() if isinstance(value, torch.Tensor)]
    memo: dict[int, Any] = {id(value): value.detach().clone() for value in made if not value.is_leaf}
    twin = copy.deepcopy(module, memo)
    given = vars(twin).get("_compiler_ctx") or {}
    for key, method in given.items():
        if key.startswith("original_"):
            vars(twin)[key.removeprefix("original_")] = method  # a copied method is the copy's
    if given:
        vars(twin)["_compiler_ctx"] = None
    return twin


@contextmanager
def eagerly(module: nn.Module) -> Iterator[None]:
    """Run a compiled module uncompiled, so that its hooks fire; the user's own stance is put back."""
    if not is_compiled(module):
        yield
        return
    with torch.compiler.set_stance("force_eager"), warnings.catch_warnings():
        # That a global hook also fires for the wrapper is as it should be: it looks its modules up.
        warnings.filterwarnings("ignore", "Using `torch.compile", UserWarning)
        yield
