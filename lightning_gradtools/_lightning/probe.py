"""Losses beside training, that leave no trace on module, metrics or random state."""

import copy
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.signature_utils import is_param_in_hook_signature
from torch import Tensor, nn
from torchmetrics import Metric

from lightning_gradtools._lightning.copy_on_write import CopyOnWrite, copied_back
from lightning_gradtools._lightning.flavour import is_a
from lightning_gradtools._lightning.module import copied, patched, without_patches
from lightning_gradtools._lightning.random_state import isolated_random_state
from lightning_gradtools._lightning.strategy import require_automatic_optimization
from lightning_gradtools.arguments import ArgumentError
from lightning_gradtools.distributed import alone, is_distributed
from lightning_gradtools.interrupts import held_interrupts


@contextmanager
def stand_in(pl_module: LightningModule) -> Iterator[LightningModule]:
    """Give a copy of the module to run in its place, and restore the random state afterwards.

    The copy has the weights, buffers, metrics and mode of the module; it logs nothing, and what it changes on the
    classes that it shares with the module is put back.
    """
    with without_patches(pl_module):
        twin = copied(pl_module)
    twin.trainer = pl_module.trainer
    for name in ("log", "log_dict"):
        patched(twin, name, _nothing_logged)
    restore = Restoration()
    restore.add(_class_attributes_back(twin))
    try:
        with isolated_random_state():
            yield twin
    finally:
        restore()


def _nothing_logged(_: Callable[..., None], *__: Any, **___: Any) -> None:
    pass


class Restoration:
    """What has to be put back, each thing by itself: none is kept from it by another that fails, or by Ctrl-C."""

    def __init__(self) -> None:
        self._undo: list[Callable[[], None]] = []

    def add(self, undo: Callable[[], None]) -> None:
        """Have ``undo`` called at the end, after what is added later."""
        self._undo.append(undo)

    def __call__(self) -> None:
        """Put everything back.

        Raises:
            Exception: the first that a part of it raised, once all was tried.
        """
        first: Exception | None = None
        with held_interrupts():
            while self._undo:
                try:
                    self._undo.pop()()
                except Exception as error:
                    first = first or error
        if first is not None:
            raise first


def unoptimized(module: nn.Module) -> dict[str, Tensor]:
    """Return the tensors that no optimizer moves, by name: frozen parameters and buffers."""
    frozen = {name: parameter for name, parameter in module.named_parameters() if not parameter.requires_grad}
    return {**frozen, **dict(module.named_buffers())}


@contextmanager
def undisturbed(pl_module: LightningModule) -> Iterator[None]:
    """Let the module itself be run beside training, and put everything back afterwards.

    Modules of dropout and batch normalisation are in evaluation mode, all others in their own.

    Put back are: each module's and its class's attributes (training mode, counters, the state of metrics), lists,
    dicts and sets among them, weights, buffers, gradients, and the random state of every device. Nothing is logged.
    Compiled functions run eagerly, so that no graph is made or thrown away; cuDNN, whose recurrent layers have no
    second derivative, is off if there are any.

    What no optimizer moves is as it was each time that ``training_step`` is called, because that may move it itself, as
    the teacher of BYOL. Trained weights are not, as whoever probes may have moved them on purpose; they are copied,
    frozen ones only if they are written to.
    """
    modules = list(pl_module.modules())
    recurrent = any(isinstance(module, nn.RNNBase) for module in modules)
    restore = Restoration()
    try:
        with isolated_random_state(), torch.compiler.set_stance("force_eager"), _without_cudnn(recurrent):
            restore.add(_class_attributes_back(pl_module))
            for parameter in pl_module.parameters():
                restore.add(_gradient_back(parameter))
                if parameter.requires_grad:
                    restore.add(copied_back(parameter))
            held = _Held(pl_module)
            restore.add(held.put_back)
            for module in modules:
                restore.add(_mode_back(module))
                restore.add(_attributes_back(module))
            for parameter in pl_module.parameters():
                parameter.grad = None
            for module in modules:
                _give_copies(module)
            with without_patches(pl_module):
                restore.add(patched(pl_module, "training_step", held.call).remove)
                for name in ("log", "log_dict"):
                    restore.add(patched(pl_module, name, _nothing_logged).remove)
                for module in modules:
                    if _is_random_or_mixing(module):
                        module.training = False
                yield
    finally:
        restore()


class _Held:
    """What no optimizer moves, the same at each call of a function."""

    def __init__(self, module: nn.Module) -> None:
        frozen = [parameter for parameter in module.parameters() if not parameter.requires_grad]
        self._frozen = CopyOnWrite(frozen) if frozen else None
        self._buffers = [copied_back(buffer) for buffer in module.buffers()]

    def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call ``function`` with everything as it was."""
        self.put_back()
        with self._frozen or nullcontext():
            return function(*args, **kwargs)

    def put_back(self) -> None:
        """Put everything back."""
        restore = Restoration()
        if self._frozen is not None:
            restore.add(self._frozen.put_back)
        for undo in self._buffers:
            restore.add(undo)
        restore()


_RANDOM_OR_MIXING = (nn.modules.dropout._DropoutNd, nn.modules.batchnorm._NormBase)
_THEIR_NAMES = frozenset(
    name for name, each in vars(nn).items() if isinstance(each, type) and issubclass(each, _RANDOM_OR_MIXING)
)


def _is_random_or_mixing(module: nn.Module) -> bool:
    scripted: Any = getattr(module, "original_name", "")
    return isinstance(module, _RANDOM_OR_MIXING) or scripted in _THEIR_NAMES


def _gradient_back(parameter: Tensor) -> Callable[[], None]:
    gradient = parameter.grad

    def undo() -> None:
        parameter.grad = gradient

    return undo


def _mode_back(module: nn.Module) -> Callable[[], None]:
    mode = module.training

    def undo() -> None:
        if module.training != mode:
            module.training = mode

    return undo


def _attributes_back(module: nn.Module) -> Callable[[], None]:
    attributes, buffers = dict(vars(module)), dict(module._buffers)

    def undo() -> None:
        _make_equal(vars(module), attributes)
        _make_equal(module._buffers, buffers)

    return undo


def _class_attributes_back(pl_module: nn.Module) -> Callable[[], None]:
    """Put back what the user's own classes count or collect for all of their instances."""
    theirs = {cls for module in pl_module.modules() for cls in type(module).__mro__ if _is_users(cls)}
    before = {cls: {name: _copy_of(value) for name, value in vars(cls).items() if _is_data(value)} for cls in theirs}

    def undo() -> None:
        for cls, attributes in before.items():
            for name, value in attributes.items():
                if _identities(vars(cls).get(name)) != _identities(value):
                    setattr(cls, name, value)

    return undo


_LIBRARIES = ("torch", "lightning", "pytorch_lightning", "torchmetrics", "builtins")


def _is_users(cls: type) -> bool:
    return cls.__module__.partition(".")[0] not in _LIBRARIES


def _is_data(value: Any) -> bool:
    return type(value) in (bool, int, float, str, list, dict, set, deque)


def _copy_of(value: Any) -> Any:
    return copy.copy(value) if isinstance(value, (list, dict, set, deque)) else value


def _identities(value: Any) -> Any:
    """Return what differs if ``value`` does, without asking its parts, which may be tensors, whether they are equal."""
    if isinstance(value, dict):
        return [(id(key), id(each)) for key, each in value.items()]
    return [*map(id, value)] if isinstance(value, (list, deque)) else value


def _make_equal(now: dict[str, Any], before: dict[str, Any]) -> None:
    """Put back only what differs: at no moment does anything lack that should be there."""
    for name in now.keys() - before.keys():
        del now[name]
    for name, value in before.items():
        if name not in now or now[name] is not value:
            now[name] = value


def _without_cudnn(wanted: bool) -> AbstractContextManager[None]:
    flags: AbstractContextManager[None] = torch.backends.cudnn.flags(enabled=False)
    return flags if wanted else nullcontext()


def _give_copies(module: nn.Module) -> None:
    """Let ``module`` work on copies of what its forward pass could change in place."""
    if isinstance(module, Metric):
        for name in module._defaults:
            vars(module)[name] = copy.deepcopy(vars(module)[name])
    for name, value in list(vars(module).items()):
        if not name.startswith("_") and type(value) in (list, dict, set, deque):
            vars(module)[name] = copy.copy(value)


def as_in_training(pl_module: LightningModule) -> AbstractContextManager[None]:
    """Compute in the precision of training: its autocast, or its default dtype."""
    context: AbstractContextManager[None] = pl_module.trainer.precision_plugin.forward_context()
    return context


def without_autocast(pl_module: LightningModule) -> AbstractContextManager[None]:
    """Compute with the default dtype of training, but each operation in the dtype of what it is given."""
    mixed = is_a(pl_module.trainer.precision_plugin, "MixedPrecision")
    return nullcontext() if mixed else as_in_training(pl_module)


def training_loss(pl_module: LightningModule, batch: Any, batch_idx: int = 0, *, in_step: bool = False) -> Tensor:
    """Return what ``training_step`` returns as the loss of a batch.

    Args:
        pl_module: the module.
        batch: what its ``training_step`` is given.
        batch_idx: likewise.
        in_step: whether all ranks are sure to call this equally often, so that it may talk to them. Where weights are
            split over ranks it has to, and they are.

    Raises:
        ArgumentError: if the module optimises manually, because then its ``training_step`` changes the
            weights, or if it returns no loss for the batch.
        CommunicationError: if it talks to other ranks and may not.
    """
    require_automatic_optimization(pl_module, "its training_step cannot be run for its loss alone")
    takes_index = is_param_in_hook_signature(pl_module.training_step, "batch_idx", min_args=2)
    together = in_step or any(map(is_distributed, pl_module.parameters()))
    with torch.enable_grad(), nullcontext() if together else alone():  # the loss itself may contain derivatives
        output = pl_module.training_step(batch, batch_idx) if takes_index else pl_module.training_step(batch)
    loss = output["loss"] if isinstance(output, dict) else output
    if not isinstance(loss, Tensor):
        raise ArgumentError(
            f"{type(pl_module).__name__}.training_step returned {loss!r} for the first batch: must be a loss"
        )
    return loss if torch.is_grad_enabled() else loss.detach()
