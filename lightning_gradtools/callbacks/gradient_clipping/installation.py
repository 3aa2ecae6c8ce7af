"""Clipping in the place where Lightning clips, and nowhere else."""

from collections.abc import Callable
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from torch.optim import Optimizer

from lightning_gradtools._lightning.module import patched
from lightning_gradtools.arguments import ArgumentError


def refuse_other_clipping(trainer: Trainer, module: LightningModule) -> None:
    """Refuse a run in which the Trainer or the module clips as well.

    Raises:
        ArgumentError: if one of them does.
    """
    if trainer.gradient_clip_val:
        raise ArgumentError(
            f"gradient_clip_val={trainer.gradient_clip_val!r}: must be None with GradientClipping,"
            " which clips instead of the Trainer; remove one of them"
        )
    if type(module).configure_gradient_clipping is not LightningModule.configure_gradient_clipping:
        raise ArgumentError(
            f"{type(module).__name__}.configure_gradient_clipping: must not be overridden with"
            " GradientClipping, which clips in its place; remove one of them"
        )


def install(module: LightningModule, clip: Callable[[Optimizer], None]) -> Callable[[], None]:
    """Put ``clip`` where Lightning asks ``module`` to clip, after all callbacks; return what takes it away again.

    Lightning does not ask under manual optimisation; the module's own hook comes last there.
    """
    automatic = module.automatic_optimization

    def clip_in_its_place(before: Callable[..., None], optimizer: Optimizer, **_trainers_settings: Any) -> None:
        if not automatic:
            before(optimizer)
        clip(optimizer)

    name = "configure_gradient_clipping" if automatic else "on_before_optimizer_step"
    return patched(module, name, clip_in_its_place).remove
