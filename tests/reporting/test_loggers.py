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


class WandbLogger:
    """Takes the calls that Lightning's logger of this name has, by these arguments."""

    def __init__(self):
        self.calls = []

    def log_image(self, key, images, step=None):
        self.calls.append(("image", key, images, step))

    def log_text(self, key, columns=None, data=None, dataframe=None, step=None):
        self.calls.append(("text", key, columns, data, step))


class MLFlowLogger:
    """Has the client and the run of Lightning's logger of this name."""

    run_id = "7"

    def __init__(self):
        self.calls = []

    @property
    def experiment(self):
        return self

    def log_figure(self, run_id, figure, artifact_file):
        self.calls.append(("figure", run_id, figure, artifact_file))

    def log_text(self, run_id, text, artifact_file):
        self.calls.append(("text", run_id, text, artifact_file))


def test_figures_and_text_reach_weights_and_biases_and_mlflow():
    wandb, mlflow = WandbLogger(), MLFlowLogger()
    for logger in (wandb, mlflow):
        adapter(logger).figure("a/b", lambda: "drawn", 3)
        adapter(logger).text("c", "**bold**", 4)
    assert wandb.calls == [("image", "a/b", ["drawn"], 3), ("text", "c", ["step", "text"], [[4, "**bold**"]], 4)]
    assert mlflow.calls == [("figure", "7", "drawn", "a/b_3.png"), ("text", "7", "**bold**", "c_4.md")]
