"""One adapter a logger: scalars in bulk, histograms, figures and text, each in the logger's own way.

For scalars, ``self.log`` would cost hundreds of microseconds a key, on the step that logs it and on every later one.

A logger is recognised by the name of its class or of one that it descends from, because ``lightning.pytorch`` and
``pytorch_lightning`` have one each. To support another, add a subclass of :class:`LoggerAdapter` here.
"""

from collections.abc import Callable, Iterable, Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, ClassVar

from lightning.pytorch import Trainer
from lightning.pytorch.loggers import Logger

from lightning_gradtools.gradients.histogram import Histogram

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class LoggerAdapter:
    """What any logger can take: scalars. What it cannot show is left out.

    Args:
        logger: the logger.
    """

    logger_class: ClassVar[str] = "Logger"

    def __init__(self, logger: Logger) -> None:
        self.logger = logger

    def scalars(self, scalars: Mapping[str, float], step: int) -> None:
        """Write ``scalars`` under ``step``."""
        self.logger.log_metrics(dict(scalars), step)

    def histogram(self, tag: str, found: Histogram, step: int) -> None:
        """Write a histogram."""

    def figure(self, tag: str, draw: Callable[[], "Figure"], step: int) -> None:
        """Write the figure that ``draw`` makes."""

    def text(self, tag: str, markdown: str, step: int) -> None:
        """Write text in Markdown."""


class TensorBoardAdapter(LoggerAdapter):
    """All scalars of a step as one event; histograms, figures and text cards."""

    logger_class = "TensorBoardLogger"

    def scalars(self, scalars: Mapping[str, float], step: int) -> None:
        """Write ``scalars`` under ``step``."""
        writer = self._writer
        # tensorboardX has protobufs of its own
        if type(writer).__module__.startswith("torch."):
            writer._get_file_writer().add_summary(_summary(scalars), step)
        else:
            super().scalars(scalars, step)

    def histogram(self, tag: str, found: Histogram, step: int) -> None:
        """Write a histogram."""
        self._writer.add_histogram_raw(
            tag,
            min=found.edges[0],
            max=found.edges[-1],
            num=sum(found.counts),
            sum=found.total,
            sum_squares=found.squares,
            bucket_limits=found.edges[1:],
            bucket_counts=found.counts,
            global_step=step,
        )

    def figure(self, tag: str, draw: Callable[[], "Figure"], step: int) -> None:
        """Write the figure that ``draw`` makes."""
        self._writer.add_figure(tag, draw(), step)
        self._writer.flush()  # the last thing of many runs

    def text(self, tag: str, markdown: str, step: int) -> None:
        """Write text in Markdown."""
        self._writer.add_text(tag, markdown, step)

    @property
    def _writer(self) -> Any:
        return self.logger.experiment  # type: ignore[attr-defined]


class WandbAdapter(LoggerAdapter):
    """Weights & Biases: histograms and figures as its own media, text as HTML."""

    logger_class = "WandbLogger"

    def histogram(self, tag: str, found: Histogram, step: int) -> None:
        """Write a histogram."""
        import wandb

        counts = wandb.Histogram(np_histogram=(found.counts, found.edges))
        self.logger.log_metrics({tag: counts}, step)

    def figure(self, tag: str, draw: Callable[[], "Figure"], step: int) -> None:
        """Write the figure that ``draw`` makes."""
        self.logger.log_image(key=tag, images=[draw()], step=step)  # type: ignore[attr-defined]

    def text(self, tag: str, markdown: str, step: int) -> None:
        """Write text, one row of a table a step."""
        self.logger.log_text(key=tag, columns=["step", "text"], data=[[step, markdown]], step=step)  # type: ignore[attr-defined]


class MLFlowAdapter(LoggerAdapter):
    """MLflow: figures and text as artifacts of the run, one file a step."""

    logger_class = "MLFlowLogger"

    def figure(self, tag: str, draw: Callable[[], "Figure"], step: int) -> None:
        """Write the figure that ``draw`` makes."""
        self._client.log_figure(self._run, draw(), f"{tag}_{step}.png")

    def text(self, tag: str, markdown: str, step: int) -> None:
        """Write text in Markdown."""
        self._client.log_text(self._run, markdown, f"{tag}_{step}.md")

    @property
    def _client(self) -> Any:
        return self.logger.experiment  # type: ignore[attr-defined]

    @property
    def _run(self) -> str:
        return str(self.logger.run_id)  # type: ignore[attr-defined]


def adapter(logger: Logger) -> LoggerAdapter:
    """Return the adapter for ``logger``: that of the nearest of its classes which has one."""
    known = {each.logger_class: each for each in _descendants(LoggerAdapter)}
    found = next((known[cls.__name__] for cls in type(logger).__mro__ if cls.__name__ in known), LoggerAdapter)
    return found(logger)


def _descendants(cls: type[LoggerAdapter]) -> Iterable[type[LoggerAdapter]]:
    for each in cls.__subclasses__():
        yield each
        yield from _descendants(each)


def _adapters(trainer: Trainer) -> list[LoggerAdapter]:
    """Return those of the Trainer's loggers, on the rank that logs; none on the others."""
    return [adapter(logger) for logger in trainer.loggers] if trainer.is_global_zero else []


def log_scalars(trainer: Trainer, scalars: Mapping[str, float], step: int) -> None:
    """Write ``scalars`` to all loggers of ``trainer`` under ``step``, once for all ranks."""
    for each in _adapters(trainer):
        each.scalars(scalars, step)


def log_histograms(trainer: Trainer, histograms: Mapping[str, Histogram], step: int) -> None:
    """Write ``histograms`` to the loggers of ``trainer`` that have such."""
    for each in _adapters(trainer):
        for tag, found in histograms.items():
            each.histogram(tag, found, step)


def log_figure(trainer: Trainer, tag: str, draw: Callable[[], "Figure"], step: int) -> None:
    """Write the figure that ``draw`` makes to the loggers of ``trainer`` that show any.

    Without matplotlib (the extra ``plots``) nothing is drawn.
    """
    if find_spec("matplotlib"):
        for each in _adapters(trainer):
            each.figure(tag, draw, step)


def log_text(trainer: Trainer, tag: str, markdown: str, step: int) -> None:
    """Write text in Markdown to the loggers of ``trainer`` that show any."""
    for each in _adapters(trainer):
        each.text(tag, markdown, step)


def _summary(scalars: Mapping[str, float]) -> Any:
    from tensorboard.compat.proto.summary_pb2 import Summary

    summary = Summary()
    add = summary.value.add  # four times as fast as a list of `Summary.Value`
    for tag, value in scalars.items():
        add(tag=tag, simple_value=value)
    return summary
