"""What a remedy is on the command line: overrides of ``gradtools-train`` that exist in the composed config."""

import inspect
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from importlib.resources import files
from typing import Any, Protocol, runtime_checkable

import lightning
from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf

from lightning_gradtools.cli.ownership import Ownership
from lightning_gradtools.diagnosis.finding import Change, Remedy

_CONF = files("lightning_gradtools.conf")
_CLIPPING = "callbacks.gradient_clipping"
_MAX_NORM = 1.0  # of a run that is not clipped yet


@runtime_checkable
class TellsRemedies(Protocol):
    """A callback that prints remedies, and asks this for the overrides that make them."""

    overrides_for: Callable[[Remedy], tuple[str, ...]] | None


def offer_overrides(callbacks: Iterable[lightning.Callback], cfg: DictConfig, ownership: Ownership) -> None:
    """Give those of ``callbacks`` that tell remedies the overrides that have an effect under ``cfg``.

    The groups ``optimizer`` and ``schedule`` have none where the module configures its own.
    """
    unused = set()
    if not ownership.optimizer_from_config:
        unused = {"optimizer"} if cfg.apply_schedule is True else {"optimizer", "schedule"}
    used = OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key not in unused])
    for callback in callbacks:
        if isinstance(callback, TellsRemedies):
            callback.overrides_for = partial(overrides_for, cfg=used)


def overrides_for(remedy: Remedy, cfg: DictConfig) -> tuple[str, ...]:
    """Return the overrides that make the change of ``remedy``.

    Args:
        remedy: what is to be changed, and to which value.
        cfg: the run's composed config.

    Returns:
        Words for the command line, beside those that composed ``cfg``; empty where the config has no such option, or
        has the value already.
    """
    if remedy.change is None:
        return ()
    return tuple(_OVERRIDES[remedy.change](remedy, cfg))


def _rate(remedy: Remedy, cfg: DictConfig) -> Iterator[str]:
    if remedy.value is not None:
        yield from _set(cfg, "optimizer.lr", remedy.value)


def _search(_: Remedy, cfg: DictConfig) -> Iterator[str]:
    if "lr" in (cfg.get("optimizer") or ()):
        yield from _choose(cfg, "tune", "lr")


def _warm_up(_: Remedy, cfg: DictConfig) -> Iterator[str]:
    """A schedule that warms up warms up for twice as long."""
    steps = OmegaConf.select(cfg, "schedule.warmup_steps")
    if isinstance(steps, (int, float)):
        doubled = min(2 * steps, 0.5) if isinstance(steps, float) else 2 * steps
        yield from _set(cfg, "schedule.warmup_steps", doubled or 0.05)
    elif steps is None:
        yield from _choose(cfg, "schedule", "warmup_cosine")


def _decay(_: Remedy, cfg: DictConfig) -> Iterator[str]:
    if not cfg.get("schedule", True):
        yield from _choose(cfg, "schedule", "warmup_cosine")


def _over_run(_: Remedy, cfg: DictConfig) -> Iterator[str]:
    if OmegaConf.select(cfg, "schedule.total_steps") is not None:
        yield "schedule.total_steps=null"
    elif not _has(cfg, "schedule.total_steps"):
        yield from _choose(cfg, "schedule", "warmup_cosine")


def _clip(_: Remedy, cfg: DictConfig) -> Iterator[str]:
    """A norm that is clipped already is clipped at a tenth."""
    trainers = OmegaConf.select(cfg, "trainer.gradient_clip_val")
    if trainers is not None:
        yield from _set(cfg, "trainer.gradient_clip_val", trainers / 10)
    elif _has(cfg, _CLIPPING):
        now = OmegaConf.select(cfg, f"{_CLIPPING}.max_norm")
        yield from _set(cfg, f"{_CLIPPING}.max_norm", _MAX_NORM if now is None else now / 10)
        for other in ("clip_value", "adaptive"):  # a norm cannot stand beside these
            yield from _set(cfg, f"{_CLIPPING}.{other}", None)
    else:
        yield from _added_clipping(cfg)


def _raise_max_norm(_: Remedy, cfg: DictConfig) -> Iterator[str]:
    for path in (f"{_CLIPPING}.max_norm", "trainer.gradient_clip_val"):
        now = OmegaConf.select(cfg, path)
        if now is not None:
            yield from _set(cfg, path, 10 * now)


def _skip_nonfinite(_: Remedy, cfg: DictConfig) -> Iterator[str]:
    if _has(cfg, _CLIPPING):
        yield from _set(cfg, f"{_CLIPPING}.on_nonfinite", "skip")
    elif OmegaConf.select(cfg, "trainer.gradient_clip_val") is None:
        yield from _added_clipping(cfg)  # skips them unless told otherwise


def _added_clipping(cfg: DictConfig) -> Iterator[str]:
    """Add it key by key: to choose from the group ``callbacks/gradtools`` again would drop what was chosen."""
    if OmegaConf.select(cfg, "callbacks") is not None:
        yield f"+{_CLIPPING}._target_=lightning_gradtools.callbacks.GradientClipping"
        yield f"+{_CLIPPING}.max_norm={_text(_MAX_NORM)}"


def _relu(_: Remedy, cfg: DictConfig) -> Iterator[str]:
    yield from _set(cfg, "model.net.activation", "relu")
    yield from _set(cfg, "model.net.init", "he")


def _leaky_relu(_: Remedy, cfg: DictConfig) -> Iterator[str]:
    yield from _set(cfg, "model.net.activation", "leaky_relu")


def _initialization(scheme: str, _: Remedy, cfg: DictConfig) -> Iterator[str]:
    yield from _set(cfg, "model.net.init", scheme)
    yield from _set(cfg, "model.net.init_scale", 1.0)
    of_the_user = not _has(cfg, "model.net")
    if of_the_user and OmegaConf.select(cfg, "initialization.scheme") != scheme:
        yield from _choose(cfg, "initialization", scheme)


def _residual(_: Remedy, cfg: DictConfig) -> Iterator[str]:
    parts = (OmegaConf.select(cfg, "model._target_"), OmegaConf.select(cfg, "model.net._target_"))
    if parts == ("lightning_gradtools.tasks.Classifier", "lightning_gradtools.tasks.MLP"):
        yield from _choose(cfg, "model", "residual_mlp")


def _normalise(_: Remedy, cfg: DictConfig) -> Iterator[str]:
    yield from _set(cfg, "model.net.norm", "layer")


def _less_depth(_: Remedy, cfg: DictConfig) -> Iterator[str]:
    depth = OmegaConf.select(cfg, "model.net.depth")
    if depth is not None and depth > 1:
        yield from _set(cfg, "model.net.depth", depth // 2)


def _weight_decay(_: Remedy, cfg: DictConfig) -> Iterator[str]:
    yield from _set(cfg, "optimizer.weight_decay", 0.0)


def _eps(remedy: Remedy, cfg: DictConfig) -> Iterator[str]:
    target = OmegaConf.select(cfg, "optimizer._target_")
    if target is not None and "eps" in inspect.signature(get_object(target)).parameters:
        known = _has(cfg, "optimizer.eps")
        yield f"{'' if known else '+'}optimizer.eps={_text(remedy.value)}"


def _overfit(_: Remedy, cfg: DictConfig) -> Iterator[str]:
    yield from _choose(cfg, "debug", "overfit_batches", key="trainer")


_OVERRIDES: dict[Change, Callable[[Remedy, DictConfig], Iterator[str]]] = {
    Change.LOWER_LEARNING_RATE: _rate,
    Change.RAISE_LEARNING_RATE: _rate,
    Change.SEARCH_LEARNING_RATE: _search,
    Change.WARM_UP: _warm_up,
    Change.DECAY_LEARNING_RATE: _decay,
    Change.SCHEDULE_OVER_RUN: _over_run,
    Change.CLIP_NORM: _clip,
    Change.RAISE_MAX_NORM: _raise_max_norm,
    Change.SKIP_NONFINITE: _skip_nonfinite,
    Change.USE_RELU: _relu,
    Change.USE_LEAKY_RELU: _leaky_relu,
    Change.HE_INIT: partial(_initialization, "he"),
    Change.XAVIER_INIT: partial(_initialization, "xavier"),
    Change.ADD_RESIDUAL: _residual,
    Change.NORMALISE: _normalise,
    Change.LESS_DEPTH: _less_depth,
    Change.LESS_WEIGHT_DECAY: _weight_decay,
    Change.RAISE_EPS: _eps,
    Change.OVERFIT_ONE_BATCH: _overfit,
}


def _has(cfg: DictConfig, path: str) -> bool:
    """Say whether ``cfg`` has ``path``, be it null."""
    missing = object()
    return OmegaConf.select(cfg, path, default=missing) is not missing


def _set(cfg: DictConfig, path: str, value: Any) -> Iterator[str]:
    """Override what is there; nothing where it is not, or is ``value`` already."""
    if _has(cfg, path) and OmegaConf.select(cfg, path) != value:
        yield f"{path}={_text(value)}"


def _choose(cfg: DictConfig, group: str, option: str, key: str | None = None) -> Iterator[str]:
    """Choose ``option`` of a group of ours, whose content ``cfg`` holds under ``key``, if not under its own name."""
    if (key or group) in cfg and (_CONF / group / f"{option}.yaml").is_file():
        yield f"{group}={option}"


def _text(value: Any) -> str:
    if value is None:
        return "null"
    return f"{value:g}" if isinstance(value, float) else str(value)
