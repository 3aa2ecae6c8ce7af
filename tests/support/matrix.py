"""The support matrix: every callback and option that touches tensors, in every way to run a Trainer.

A cell is :class:`Equal`, :class:`Refused` or :class:`NotOffered`, and nothing in between. Those that are not listed in
:data:`CELLS` are equal, within the column's ``within``, to a loop in plain torch, float64 and one process over the same
global batches (``helpers/support_reference.py``). ``tests/test_support_matrix.py`` walks all cells, and
``scripts/support_matrix.py`` prints ``docs/support.md``.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Callbacks = tuple[tuple[str, Mapping[str, Any]], ...]  # names of public callbacks and their arguments


@dataclass(frozen=True)
class Row:
    """One option of one callback.

    Attributes:
        name: of the row.
        callbacks: what runs: the first is what the row is about. Rows with the same ones share their runs.
        compared: what is compared with the oracle, in words.
        reads: beginnings of the keys that are compared, of what the first callback measured.
        weights: whether the weights after each step are compared with the oracle's, and not with those of a run
            without any callback, of which an observer's may not differ in one bit.
        poison: whether a NaN is in the data of one step.
        spectral: whether the columns' ``spectrum_within`` is what counts.
    """

    name: str
    callbacks: Callbacks
    compared: str
    reads: tuple[str, ...] = ()
    weights: bool = False
    poison: bool = False
    spectral: bool = False

    @property
    def callback(self) -> str:
        """The name of what the row is about."""
        return self.callbacks[0][0]


@dataclass(frozen=True)
class Column:
    """One way to run a Trainer.

    Attributes:
        name: of the column.
        how: what it is, in words.
        ranks: processes.
        within: largest relative difference to the oracle.
        spectrum_within: the same of eigenvalues, which are found to a tolerance.
        slow: whether `make test` leaves it out.
    """

    name: str
    how: str
    ranks: int = 1
    within: float = 3e-5
    spectrum_within: float = 5e-3
    slow: bool = True


@dataclass(frozen=True)
class Equal:
    """Equal to the oracle.

    Attributes:
        within: largest relative difference; None is the column's.
        because: why it is another than the column's.
    """

    within: float | None = None
    because: str = ""


@dataclass(frozen=True)
class Refused:
    """Refused before the first step by an ``ArgumentError``.

    Attributes:
        message: a part of its text.
    """

    message: str


@dataclass(frozen=True)
class NotOffered:
    """Not measured, which is documented; training is what it is without it.

    Attributes:
        reason: why.
        said: a part of the warning that says so once, "" if nothing has to be said.
        keys: beginnings of those that are absent, where they are not all that the row reads.
    """

    reason: str
    said: str = ""
    keys: tuple[str, ...] = ()


Cell = Equal | Refused | NotOffered


@dataclass(frozen=True)
class Entry:
    """A cell for several rows and columns.

    Attributes:
        rows: names of rows, or of callbacks for all of their rows.
        columns: names of columns.
        cell: what it is there.
    """

    rows: tuple[str, ...]
    columns: tuple[str, ...]
    cell: Cell = field(default_factory=Equal)


_ALL = {"norm_type": 2, "weight_norm": True, "update_ratio": True, "cosine": True, "noise_scale": True}
_MONITOR: Callbacks = (("GradientMonitor", {**_ALL, "histograms": True}),)
_DETECTOR: Callbacks = (
    ("PathologyDetector", {"every_n_steps": 2, "on_warning": "log", "on_critical": "log", "table": False}),
)
_SPECTRUM: Callbacks = (("HessianSpectrum", {"every_n_steps": 3, "top_k": 2, "per_layer": True, "trace": 30}),)
_DIFFERENCES = {"method": "finite_difference"}
_CLIPPED = "weights after each step"


def _clipping(option: str, *, poison: bool = False, **arguments: Any) -> Row:
    callbacks: Callbacks = (("GradientClipping", arguments),)
    reads = ("clip/skipped_steps",)
    compared = f"{_CLIPPED}, steps skipped" if poison else _CLIPPED
    return Row(f"GradientClipping, {option}", callbacks, compared, reads, weights=True, poison=poison)


ROWS: tuple[Row, ...] = (
    Row("GradientMonitor", _MONITOR, "norm of each gradient and of all", ("grad_norm/",)),
    Row("GradientMonitor, weight_norm", _MONITOR, "norm of each weight and of all", ("weight_norm/",)),
    Row("GradientMonitor, update_ratio", _MONITOR, "norm of each change over that of its weight", ("update_ratio/",)),
    Row("GradientMonitor, cosine", _MONITOR, "cosine to the gradient of the step before", ("grad_cosine/",)),
    Row("GradientMonitor, noise_scale", _MONITOR, "signal, noise and their ratio", ("grad_noise/",)),
    Row("GradientMonitor, histograms", _MONITOR, "number, sum and sum of squares of entries", ("grad_histogram/",)),
    Row(
        "GradientMonitor, norm_type=1",
        (("GradientMonitor", {"norm_type": 1, "logs_per_flush": 3}),),
        "1-norms, brought to the host every third step",
        ("grad_norm/",),
    ),
    Row(
        "GradientMonitor, norm_type=inf",
        (("GradientMonitor", {"norm_type": "inf", "group_by": "module"}),),
        "largest entries, by module",
        ("grad_norm/",),
    ),
    Row(
        "GradientMonitor, clipped",
        (("GradientMonitor", {}), ("GradientClipping", {"max_norm": 0.1})),
        "norms before clipping and after, factor",
        ("grad_norm/", "grad_norm_clipped/"),
        weights=True,
    ),
    _clipping("max_norm", max_norm=0.1),
    _clipping("max_norm, norm_type=1", max_norm=0.3, norm_type=1),
    _clipping("clip_value", clip_value=0.02),
    _clipping("adaptive", adaptive=0.002),
    _clipping("percentile", percentile=40, window=16, warmup_steps=2),
    _clipping("zscore", zscore=0.1, max_norm=0.2, warmup_steps=2),
    _clipping("exclude", max_norm=0.1, exclude="bias"),
    _clipping("overrides", max_norm=0.1, overrides={"0/0": 0.05}),
    _clipping("on_nonfinite=skip", poison=True, max_norm=0.1),
    _clipping("on_nonfinite=zero", poison=True, max_norm=0.1, on_nonfinite="zero"),
    Row("PathologyDetector", _DETECTOR, "norms of layers' gradients, weights, changes", ("layer/",)),
    Row("PathologyDetector, losses", _DETECTOR, "loss of each step", ("loss",)),
    Row("PathologyDetector, units", _DETECTOR, "units of each activation, and how many are saturated", ("units/",)),
    Row(
        "PathologyDetector, NaN",
        _DETECTOR,
        "step and cause of the first NaN",
        ("nonfinite",),
        poison=True,
    ),
    Row(
        "HessianSpectrum",
        _SPECTRUM,
        "eigenvalues, stability, loss of the probe batch",
        ("curvature/eigenvalue", "curvature/sharpness", "curvature/stability", "curvature/probe_loss"),
        spectral=True,
    ),
    Row("HessianSpectrum, trace", _SPECTRUM, "trace, within 5 standard errors", ("curvature/trace",), spectral=True),
    Row(
        "HessianSpectrum, per_layer",
        _SPECTRUM,
        "top eigenvalue of each layer's block",
        ("curvature/top_eigenvalue/",),
        spectral=True,
    ),
    Row(
        "HessianSpectrum, algebraic",
        (
            (
                "HessianSpectrum",
                {
                    "every_n_epochs": 1,
                    "top_k": 1,
                    "which": "algebraic",
                    "num_batches": 2,
                    "method": "finite_difference",
                },
            ),
        ),
        "largest eigenvalues of two probe batches, by finite differences",
        ("curvature/eigenvalue", "curvature/sharpness", "curvature/probe_loss"),
        spectral=True,
    ),
    Row(
        "HessianSpectrum, density",
        (("HessianSpectrum", {"every_n_epochs": 1, "top_k": 1, "density": 20}),),
        "that there is a density, of which a share from 0 to 1 is negative",
        ("curvature/negative_share",),
        spectral=True,
    ),
    Row("GradientCheck", (("GradientCheck", {}),), "that it passes", ("passed",)),
    Row(
        "WeightInitialization, he",
        (("WeightInitialization", {"scheme": "he", "seed": 5, "force": True}),),
        "first weights, and after each step",
        weights=True,
    ),
    Row(
        "WeightInitialization, xavier",
        (("WeightInitialization", {"scheme": "xavier", "seed": 5, "force": True}),),
        "first weights, and after each step",
        weights=True,
    ),
    Row(
        "WeightInitialization, orthogonal",
        (("WeightInitialization", {"scheme": "orthogonal", "seed": 5, "force": True}),),
        "first weights, and after each step",
        weights=True,
    ),
    Row(
        "WeightInitialization, lsuv",
        (("WeightInitialization", {"scheme": "lsuv", "seed": 5, "force": True}),),
        "first weights, scaled on the first batch of rank 0, and after each step",
        weights=True,
    ),
    Row(
        "WarmupCosineSchedule",
        (("WarmupCosineSchedule", {"warmup_steps": 2}),),
        "learning rates, weights after each step",
        ("lr",),
        weights=True,
    ),
    Row(
        "TorchLRScheduler",
        (("TorchLRScheduler", {"scheduler": "StepLR", "step_size": 2, "gamma": 0.5}),),
        "learning rates, weights after each step",
        ("lr",),
        weights=True,
    ),
    Row("LastCheckpoint", (("LastCheckpoint", {}),), "weights in last.ckpt", ("checkpoint/",)),
    Row("ProgressBar", (("ProgressBar", {}),), "nothing: that training is the same"),
    Row("lr_range_test", (("lr_range_test", {}),), "losses; weights put back", ("loss",)),
)

COLUMNS: tuple[Column, ...] = (
    Column("single", "one process, float32", slow=False),
    Column("bf16-mixed", 'precision="bf16-mixed"', within=0.1),
    Column("bf16-true", 'precision="bf16-true"', within=0.3),
    Column("16-mixed", "fp16 autocast with a loss scaler", within=0.02),
    Column("64-true", 'precision="64-true"'),
    Column("compiled before", "torch.compile(module), then fit"),
    Column("compiled inside", "torch.compile(self.net) in configure_model"),
    Column("accumulation", "accumulate_grad_batches=3, the last window shorter"),
    Column("checkpointing", "activations computed again, use_reentrant=False"),
    Column("reentrant checkpointing", "activations computed again, use_reentrant=True"),
    Column("manual", "manual optimisation"),
    Column("two optimizers", "manual optimisation of two networks"),
    Column("LBFGS", "LBFGS, two evaluations a step, float64"),
    Column("uneven", "a last batch of fewer samples"),
    Column("barebones", "Trainer(barebones=True)"),
    Column("fast_dev_run", "fast_dev_run=3"),
    Column("overfit_batches", "overfit_batches=2, three epochs"),
    Column("no length", "an IterableDataset without a length"),
    Column("CombinedLoader", "inputs and targets from two loaders"),
    Column("SWA", "StochasticWeightAveraging from the second epoch on"),
    Column("EMA", "EMAWeightAveraging, where Lightning has it"),
    Column("accumulation scheduler", "GradientAccumulationScheduler({0: 1, 1: 2})"),
    Column("DDP", "DDPStrategy(), 2 ranks", 2, slow=False),
    Column("DDP, unused", "find_unused_parameters=True, and one is unused", 2),
    Column("DDP, static graph", "static_graph=True", 2),
    Column("DDP, bucket view", "gradient_as_bucket_view=True", 2),
    Column("DDP, fp16 hook", "gradients averaged in fp16", 2, within=5e-3, spectrum_within=2e-2),
    Column("DDP, uneven", "ranks with batches of different sizes at the end", 2),
    Column("DDP, accumulation", "accumulate_grad_batches=3, the last window shorter", 2),
    Column("ddp_fork", 'strategy="ddp_fork"', 2),
    Column("ddp_spawn", 'strategy="ddp_spawn"', 2),
    Column("FSDP2", "ModelParallelStrategy, fully_shard on each layer, 2 ranks", 2, spectrum_within=2e-2),
    Column("FSDP2, bf16", "MixedPrecisionPolicy(param_dtype=bfloat16)", 2, within=0.1, spectrum_within=0.1),
    Column("FSDP2, offload", "CPUOffloadPolicy()", 2, spectrum_within=2e-2),
    Column("FSDP2, checkpointing", "activations computed again", 2, spectrum_within=2e-2),
    Column("FSDP2, compiled", "torch.compile of the sharded network", 2, spectrum_within=2e-2),
    Column("TP", "ModelParallelStrategy, two layers split, the last one not, 2 ranks", 2),
    Column("FSDP2 x TP", "both, on 4 ranks", 4, spectrum_within=2e-2, slow=False),
    Column("resumed, 1 to 2", "the second epoch on 2 ranks of DDP, the first on one", 2),
    Column("resumed, 2 to 1", "the second epoch on one, the first on 2 ranks of DDP"),
    Column("HSDP", "shards within pairs of ranks, copies between, on 4 ranks", 4, spectrum_within=2e-2),
    Column("FSDP1", "FSDPStrategy; a stand-in for it, as it needs GPUs", slow=False),
    Column("DeepSpeed", "DeepSpeedStrategy; a stand-in for it, as it needs GPUs", slow=False),
)

_MANUAL = ("manual", "two optimizers")
_SHARDED = (
    *("FSDP2", "FSDP2, bf16", "FSDP2, offload", "FSDP2, checkpointing", "FSDP2, compiled", "TP", "FSDP2 x TP", "HSDP"),
)
_GPUS = ("FSDP1", "DeepSpeed")
_SEVERAL = ("DDP", "DDP, unused", "DDP, static graph", "DDP, bucket view", "DDP, fp16 hook", "DDP, uneven")
_NOISY = (
    *(*_SEVERAL, "DDP, accumulation", "ddp_fork", "ddp_spawn", "accumulation", "accumulation scheduler"),
    "resumed, 1 to 2",
)
_ALONE = tuple(each.name for each in COLUMNS if each.name not in (*_NOISY, *_MANUAL, *_SHARDED, *_GPUS))

CELLS: tuple[Entry, ...] = (
    Entry(
        ("TorchLRScheduler", "LastCheckpoint", "ProgressBar"),
        _GPUS,
        NotOffered("it reads no gradient, so it is not refused; these strategies need GPUs, so it is not tried"),
    ),
    Entry(
        (
            *("GradientMonitor", "GradientClipping", "PathologyDetector", "HessianSpectrum", "GradientCheck"),
            *("WeightInitialization", "WarmupCosineSchedule", "lr_range_test"),
        ),
        _GPUS,
        Refused("use ModelParallelStrategy (FSDP2)"),
    ),
    Entry(
        ("GradientMonitor",),
        ("barebones",),
        NotOffered("it follows the Trainer's log_every_n_steps, which is 0 there; give it its own"),
    ),
    Entry(
        ("GradientMonitor, noise_scale",),
        _ALONE,
        NotOffered("there are not two batch sizes to compare", "it needs accumulate_grad_batches >= 2 or DDP"),
    ),
    Entry(
        ("GradientMonitor, noise_scale",),
        _MANUAL,
        NotOffered("micro-batches cannot be told from steps", "micro-batches cannot be told from steps"),
    ),
    Entry(
        ("GradientMonitor, noise_scale",),
        _SHARDED,
        NotOffered("the gradient of one rank is nowhere to be seen", "does not show the gradient of one rank"),
    ),
    Entry(("GradientMonitor, histograms",), ("fast_dev_run",), NotOffered("there is no logger")),
    Entry(
        ("PathologyDetector, losses",),
        _MANUAL,
        NotOffered("there is no one loss that has to fall"),
    ),
    Entry(
        ("PathologyDetector, NaN",),
        (*_MANUAL, *_SHARDED),
        NotOffered(
            "the step is found; it cannot be run again on a copy to find the cause",
            keys=("nonfinite/input data",),
        ),
    ),
    Entry(
        ("PathologyDetector, units",),
        ("reentrant checkpointing",),
        NotOffered(
            "activations run without gradients are not seen; use_reentrant=False shows them",
            "reentrant checkpointing runs them without recording gradients",
            keys=("units/net.3/",),
        ),
    ),
    Entry(("HessianSpectrum", "lr_range_test"), _MANUAL, Refused("automatic_optimization=False")),
    Entry(("HessianSpectrum",), ("bf16-true",), Refused("too coarse for curvature")),
    Entry(
        ("GradientCheck",),
        (*_MANUAL, *_SHARDED, "reentrant checkpointing"),
        NotOffered("it cannot run the loss alone, in float64, on a copy", "GradientCheck: cannot check"),
    ),
    Entry(("WeightInitialization",), _SHARDED, Refused("cannot be applied to weights that are split over ranks")),
    Entry(("TorchLRScheduler",), _MANUAL, Refused("must not be used with manual optimisation")),
    Entry(("WarmupCosineSchedule",), ("no length",), Refused("must be given, because this run has no known end")),
    Entry(("LastCheckpoint",), ("barebones",), Refused("enable_checkpointing=False")),
    Entry(("ProgressBar",), ("barebones",), Refused("enable_progress_bar=False")),
    Entry(("LastCheckpoint",), ("fast_dev_run",), NotOffered("a trial run saves nothing")),
    Entry(("lr_range_test",), ("ddp_fork", "ddp_spawn"), Refused("in the processes it starts")),
    Entry(("lr_range_test",), _SHARDED, Refused("cannot put back weights that are split over ranks")),
    Entry(("lr_range_test",), ("fast_dev_run",), Refused("fast_dev_run=True: must be off")),
)


def cell(row: Row, column: Column) -> Cell:
    """Return the cell, the first entry that fits."""
    for entry in CELLS:
        if column.name in entry.columns and ({row.name, row.callback} & set(entry.rows)):
            return entry.cell
    return Equal()
