"""Silence for what does not help a reader of the console; warnings that matter stay."""

import logging
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).parents[1]

_NOISE = re.compile(
    r"^\s*(GPU available|TPU available|HPU available|IPU available|💡 Tip|`Trainer\.fit` stopped|"
    r"distributed_backend=|-{10,}|Initializing distributed|Running in `fast_dev_run`|"
    r"Restor(ing|ed all) states from the checkpoint|Loaded model weights from the checkpoint|"
    r"`weights_only` was not set)"
)


class _Noise(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        return not _NOISE.match(record.getMessage())


def _formatted(otherwise: Callable[..., str]) -> Callable[..., str]:
    """Show a warning of ours without the line of code that gives it, which is of no help to whoever trains."""

    def formatted(message: Warning | str, category: type[Warning], filename: str, lineno: int, line: Any = None) -> str:
        ours = Path(filename).is_relative_to(PACKAGE)
        return f"{message}\n" if ours else otherwise(message, category, filename, lineno, line)

    return formatted


def keep_quiet(*, in_memory_data: bool) -> None:
    """Drop Lightning's lines on absent accelerators, its tips and its banners.

    Args:
        in_memory_data: the data module is one of ours, for which more loader workers are slower; the advice to raise
            their number is dropped too.
    """
    # Lightning gives its loggers handlers of their own or leaves lines to the root, where Hydra has one, or both.
    top = logging.getLogger("lightning")
    top.propagate = False
    for logger in (top, logging.getLogger("lightning.pytorch"), logging.getLogger("lightning.fabric")):
        for handler in logger.handlers:
            handler.setFormatter(logging.Formatter("%(message)s"))
            handler.addFilter(_Noise())
    # Where pytorch_lightning is imported too, both flavours write to its logger, which leaves them to the root.
    for handler in logging.getLogger().handlers:
        handler.addFilter(_Noise())
    warnings.formatwarning = _formatted(warnings.formatwarning)
    # Lightning's own use of a torch API, which nobody who reads the console can change.
    warnings.filterwarnings("ignore", message=r".*LeafSpec.* is deprecated")
    # debug=overfit_batches asks for just that.
    warnings.filterwarnings("ignore", message=r".*requested to overfit but enabled train dataloader shuffling")
    # A sharded checkpoint is a folder, and keeping the best one means overwriting it.
    warnings.filterwarnings("ignore", message=r".*Detected an existing checkpoint in .*overwriting")
    # Whoever goes on with a run wants to find there what it left.
    warnings.filterwarnings("ignore", message=r".*(Checkpoint|logs) directory .* exists and is not empty")
    if in_memory_data:
        warnings.filterwarnings("ignore", message=r".*does not have many workers")
