from functools import partial

import pytest
from lightning.pytorch import Trainer


@pytest.fixture
def trainer():
    """A factory of trainers that write nothing and print nothing."""
    return partial(
        Trainer,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
    )
