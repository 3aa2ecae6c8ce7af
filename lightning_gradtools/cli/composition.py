"""The short tree printed before a run: what was composed."""

import inspect
import os

import lightning
from hydra.utils import get_object
from omegaconf import DictConfig, ListConfig

from lightning_gradtools.cli.ownership import Ownership


def composition(cfg: DictConfig, module: lightning.LightningModule, ownership: Ownership) -> str:
    """Return the tree of ``cfg``: one line a part, with the class that does the work and its arguments."""
    own = f"{type(module).__name__}.configure_optimizers"
    optimizer = describe(cfg.optimizer)
    schedule = describe(cfg.schedule) if cfg.schedule else "none"
    if not ownership.optimizer_from_config:
        optimizer = f"{own} (apply_optimizer=true would use {optimizer})"
    if cfg.schedule and not ownership.schedule_from_config:
        schedule = f"{own} (apply_schedule=true would use {schedule})"
    parameters = sum(parameter.numel() for parameter in module.parameters())
    rows = [
        ("model", f"{describe(cfg.model, skip=('optimizer',))}, {parameters:,} parameters"),
        ("data", describe(cfg.data) if cfg.data._target_ else f"{type(module).__name__}'s own loaders"),
        ("optimizer", optimizer),
        ("schedule", schedule),
        *([("weights", describe(cfg.initialization))] if cfg.initialization else []),
        *((("callbacks" if i == 0 else ""), text) for i, text in enumerate(_callbacks(cfg))),
        ("trainer", _trainer(cfg.trainer)),
        ("seed", str(cfg.seed)),
        ("output", os.path.relpath(cfg.output_dir)),
    ]
    return "\n".join(["", cfg.name, *(_branch(*row, last=row is rows[-1]) for row in rows), ""])


def describe(node: DictConfig, skip: tuple[str, ...] = ()) -> str:
    """Return ``Class(argument=value, …)`` for a node with a ``_target_``: what differs from the class's defaults."""
    defaults = inspect.signature(get_object(node._target_)).parameters
    arguments = [
        f"{key}={_value(value)}"
        for key, value in ((str(key), value) for key, value in node.items())
        if not key.startswith("_") and key not in skip and not (key in defaults and value == defaults[key].default)
    ]
    return f"{node._target_.rsplit('.', 1)[-1]}({', '.join(arguments)})"


def _value(value: object) -> str:
    if isinstance(value, DictConfig):
        return describe(value) if "_target_" in value else str(dict(value))
    if isinstance(value, ListConfig):
        return f"[{', '.join(map(_value, value))}]"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _callbacks(cfg: DictConfig) -> list[str]:
    """Ours are what a run is watched and steered by; Lightning's housekeeping goes without saying."""
    ours = [
        describe(node) for node in cfg.callbacks.values() if node and "gradtools" in node._target_ and len(node) > 1
    ]
    return ours or ["none"]


def _trainer(node: DictConfig) -> str:
    length = f"{node.max_steps} steps" if node.get("max_steps", -1) > 0 else f"{node.get('max_epochs')} epochs"
    strategy = node.get("strategy", "auto")
    name = strategy._target_.rsplit(".", 1)[-1] if isinstance(strategy, DictConfig) else strategy
    where = f"{node.get('accelerator', 'auto')} x {node.get('devices', 'auto')}"
    return ", ".join([length, where, *([name] if name != "auto" else []), str(node.get("precision", "32-true"))])


def _branch(label: str, text: str, *, last: bool) -> str:
    edge = "└─" if last else "├─" if label else "│ "
    return f"{edge} {label:<10} {text}"
