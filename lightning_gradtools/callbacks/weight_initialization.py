"""Weight initialisation of any LightningModule, chosen layer by layer from what each layer reads."""

from collections import Counter, defaultdict
from dataclasses import replace
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info

from lightning_gradtools._lightning.batches import first_batch
from lightning_gradtools._lightning.loop import is_restoring, restores_late
from lightning_gradtools._lightning.module import eagerly, plain_name
from lightning_gradtools._lightning.probe import as_in_training, stand_in, training_loss
from lightning_gradtools._lightning.strategy import require_whole_gradients
from lightning_gradtools.arguments import ArgumentError, described, integer, number, one_of
from lightning_gradtools.distributed import is_distributed
from lightning_gradtools.initialization import (
    NOT_DEFAULT,
    SCHEMES,
    Initialization,
    initialize_,
    lsuv_,
    scale_,
    trace_signal_path,
)


class WeightInitialization(Callback):
    """Initialises linear, convolution and embedding layers at fit start, biases to zero.

    The activation that each layer reads, and thereby its gain, and the ends of residual branches are seen in
    one forward pass of a copy of the module on the first training batch; the schemes and their sources are
    :func:`~lightning_gradtools.initialization.initialize_`'s. A module that optimises manually must define
    ``example_input_array``.

    It never touches a run that continues from a checkpoint, nor, unless forced, a layer whose weights are not
    what torch's constructor leaves, because those are pretrained or the module's own choice. Layers that are frozen,
    lazy and not run yet, not called in that forward pass, or whose parametrization does not hold the weights wanted
    stay as they are in any case. It prints what it did, and what it left alone and why. All ranks get the same
    weights; the global random state is left as it was.

    Logged keys: none. What was done is on the callback, as ``result``.

    Args:
        scheme: ``"he"``, ``"xavier"``, ``"orthogonal"`` or ``"lsuv"`` (orthogonal, then scaled on the first
            batch to outputs of variance one).
        embedding_std: the standard deviation of embeddings; None to leave them alone.
        zero_residual: start residual blocks as the identity.
        force: also overwrite layers whose weights are not torch's default; frozen ones stay.
        seed: of the weights; left out, it follows from the global random state, and so from
            ``seed_everything``.

    Raises:
        ArgumentError: for a value that cannot work; at fit start, for a module whose weights are split over
            ranks (FSDP1 and DeepSpeed among them), or that cannot be run on a batch.
    """

    def __init__(
        self,
        scheme: str = "he",
        embedding_std: float | None = 0.02,
        zero_residual: bool = False,
        force: bool = False,
        seed: int | None = None,
    ) -> None:
        self.scheme = one_of("scheme", scheme, SCHEMES)
        self.embedding_std = None if embedding_std is None else number("embedding_std", embedding_std, above=0)
        self.zero_residual = zero_residual
        self.force = force
        self.seed = None if seed is None else integer("seed", seed, at_least=0)
        self.result: Initialization | None = None
        self._resumes = False

    def __repr__(self) -> str:
        return described(self)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Forget whether another run went on from a checkpoint."""
        self._resumes = False

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: Any) -> None:
        """Take note that the run goes on from a checkpoint, which is not that of a tuner within it."""
        self._resumes = self._resumes or is_restoring(trainer)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Initialise, unless the run continues from a checkpoint or nobody knows yet."""
        require_whole_gradients(trainer, "WeightInitialization")
        if not restores_late(trainer):
            self._begin(trainer, pl_module)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Initialise where only now it is known whether the run continues from a checkpoint."""
        if restores_late(trainer):
            self._begin(trainer, pl_module)

    def _begin(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._resumes:
            rank_zero_info("WeightInitialization: the run continues from a checkpoint, its weights stay")
            return
        if any(map(is_distributed, pl_module.parameters())):
            raise ArgumentError(
                f"scheme={self.scheme!r}: cannot be applied to weights that are split over ranks: must be "
                "done in the module, before they are split"
            )
        self.result, factors = self._initialize(trainer, pl_module)
        rank_zero_info(_describe(self.result, factors))

    @torch.no_grad()
    def _initialize(self, trainer: Trainer, pl_module: LightningModule) -> tuple[Initialization, dict[str, float]]:
        batch = first_batch(trainer, pl_module)

        def run(module: LightningModule) -> None:
            if module.automatic_optimization:
                with as_in_training(module):
                    # to find a scale for each layer takes as many runs as the batch asks for
                    training_loss(module, batch, in_step=self.scheme != "lsuv")
            elif module.example_input_array is not None:
                module(module.example_input_array)
            else:
                raise ArgumentError(
                    f"{type(pl_module).__name__}.example_input_array=None: must be given, because the "
                    "training_step of a module that optimises manually cannot be run to see its layers"
                )

        with stand_in(pl_module) as copy, eagerly(copy):
            path = trace_signal_path(copy, lambda: run(copy))
            seed = int(torch.randint(2**31, ())) if self.seed is None else self.seed
        # Every rank must draw the same weights: DDP has made them equal already and will not do so again.
        generator = torch.Generator(pl_module.device).manual_seed(trainer.strategy.broadcast(seed))
        result = initialize_(
            pl_module,
            path,
            scheme=self.scheme,
            embedding_std=self.embedding_std,
            zero_residual=self.zero_residual,
            force=self.force,
            generator=generator,
        )
        factors: dict[str, float] = {}
        if self.scheme == "lsuv":
            with stand_in(pl_module) as copy, eagerly(copy):
                names = [layer.name for layer in result.layers if layer.scheme == "lsuv"]
                factors = lsuv_(copy, lambda: run(copy), names)
            factors = trainer.strategy.broadcast(factors)  # each rank saw a batch of its own
            modules = dict(pl_module.named_modules())
            for name, factor in factors.items():
                scale_(modules[name], factor)
        return _in_plain_names(result), factors


def _in_plain_names(result: Initialization) -> Initialization:
    """Return ``result`` with names as they are without the wrappers of torch.compile and others."""
    layers = [
        replace(layer, name=plain_name(layer.name), tied=tuple(map(plain_name, layer.tied))) for layer in result.layers
    ]
    reasons = {plain_name(name): reason for name, reason in result.reasons.items()}
    return Initialization(tuple(layers), tuple(reasons), reasons)


def _describe(result: Initialization, factors: dict[str, float]) -> str:
    """Say in a few lines what was done to how many layers."""
    kinds = Counter((layer.scheme, layer.reads, layer.gain) for layer in result.layers)
    lines = [f"WeightInitialization: {len(result.layers)} layers"]
    for (scheme, reads, gain), count in kinds.items():
        what = {"zero": "zero, at the end of a residual branch", "embedding": "small embedding"}.get(
            scheme, f"{scheme}, gain {gain:.3g}" + (f" for reading {reads}" if reads != "none" else "")
        )
        lines.append(f"  {count} × {what}")
    lines += [
        f"  {layer.name} is tied with {', '.join(layer.tied)}: done once, as {layer.scheme}"
        for layer in result.layers
        if layer.tied
    ]
    if factors:
        lines.append(f"  scaled on a batch by {min(factors.values()):.3g} to {max(factors.values()):.3g}")
    alone = defaultdict[str, list[str]](list)
    for name, reason in result.reasons.items():
        alone[reason].append(name)
    for reason, names in alone.items():
        listed = ", ".join(names[:4]) + (", …" if len(names) > 4 else "")
        forced = "; force=True for all" if reason == NOT_DEFAULT else ""
        lines.append(f"  {len(names)} left alone, as {reason} ({listed}){forced}")
    return "\n".join(lines)
