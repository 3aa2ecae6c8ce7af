"""Who configures the optimizer and the schedule: the module itself, or the config's groups."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import lightning
from omegaconf import DictConfig
from torch.optim import Optimizer

from lightning_gradtools._lightning.flavour import is_overridden
from lightning_gradtools.arguments import ArgumentError


@dataclass(frozen=True)
class Ownership:
    """The answer for one module and one config.

    Attributes:
        optimizer_from_config: the group ``optimizer`` is used.
        installs_optimizer: … by giving the module a ``configure_optimizers``; else it is an argument of the module.
        schedule_from_config: the group ``schedule`` is used.
    """

    optimizer_from_config: bool
    installs_optimizer: bool
    schedule_from_config: bool


def decide_ownership(module: lightning.LightningModule, cfg: DictConfig) -> Ownership:
    """Decide for ``module`` under ``cfg.apply_optimizer`` and ``cfg.apply_schedule`` (``auto``, true or false).

    A module that takes the optimizer as an argument, as the bundled ones do, has it from the config. Any other that
    defines ``configure_optimizers`` keeps its own unless the groups are asked for.

    Raises:
        ArgumentError: if nobody would configure an optimizer, or a value is not one of the three.
    """
    for key in ("apply_optimizer", "apply_schedule"):
        if cfg[key] not in ("auto", True, False):
            raise ArgumentError(f"{key}={cfg[key]!r}: must be auto, true or false")
    is_argument = "optimizer" in cfg.model
    defines_its_own = is_overridden("configure_optimizers", module)
    if cfg.apply_optimizer is False and not defines_its_own:
        raise ArgumentError(
            f"apply_optimizer=False: {type(module).__name__} has no configure_optimizers; must be auto or true"
        )
    asked = cfg.apply_optimizer is True or (cfg.apply_optimizer == "auto" and not defines_its_own)
    from_config = is_argument or asked
    schedule = cfg.apply_schedule is True or (cfg.apply_schedule == "auto" and from_config)
    return Ownership(
        optimizer_from_config=from_config,
        installs_optimizer=from_config and not is_argument,
        schedule_from_config=schedule and bool(cfg.schedule),
    )


def install_optimizer(module: lightning.LightningModule, factory: "partial[Optimizer]") -> None:
    """Let ``factory`` make the optimizer of ``module``, over its trainable parameters."""
    module.configure_optimizers = partial(_configure_optimizers, module, factory)  # type: ignore[method-assign]


def _configure_optimizers(module: lightning.LightningModule, factory: "partial[Optimizer]") -> Any:
    return factory([parameter for parameter in module.parameters() if parameter.requires_grad])
