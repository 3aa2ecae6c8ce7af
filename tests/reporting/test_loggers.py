import pytest
from helpers.runs import Regression, fit
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.loggers.logger import DummyLogger

from lightning_gradtools.callbacks import GradientMonitor
from lightning_gradtools.reporting.loggers import LoggerAdapter, TensorBoardAdapter, adapter


class NotebookLogger(DummyLogger):
    """A logger of a user's own, which takes scalars one by one."""

    def __init__(self):
        super().__init__()
        self.rows = []


class NotebookAdapter(LoggerAdapter):
    logger_class = "NotebookLogger"

    def scalars(self, scalars, step):
        self.logger.rows += [(key, value, step) for key, value in scalars.items()]


class MyNotebookLogger(NotebookLogger):
    pass


@pytest.mark.parametrize(
    ("logger", "expected"),
    [
        (lambda folder: NotebookLogger(), NotebookAdapter),
        (lambda folder: MyNotebookLogger(), NotebookAdapter),
        (lambda folder: TensorBoardLogger(folder), TensorBoardAdapter),
        (lambda folder: CSVLogger(folder), LoggerAdapter),
    ],
    ids=["own", "subclass", "tensorboard", "none"],
)
def test_the_adapter_is_that_of_the_nearest_class_that_has_one(logger, expected, tmp_path):
    assert type(adapter(logger(tmp_path))) is expected


def test_a_callback_writes_through_an_adapter_of_the_users_own(tmp_path):
    logger = NotebookLogger()
    fit(Regression(), GradientMonitor(), logger=logger, default_root_dir=tmp_path)
    assert [step for key, _, step in logger.rows if key == "grad_norm/total"] == list(range(6))
