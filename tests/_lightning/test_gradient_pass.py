import pytest
import torch
from helpers.runs import Regression, batches, loader, trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from lightning_gradtools._lightning import gradient_pass as floor
from lightning_gradtools.callbacks import GradientMonitor


class Keeps(Regression):
    """Returns the same optimizer for every fit; its weights stay, so that gradients tell the data."""

    def configure_optimizers(self):
        if not hasattr(self, "kept"):
            self.kept = torch.optim.SGD(self.parameters(), lr=0.0)
        return self.kept


@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended")
def test_a_trainer_that_goes_back_to_an_earlier_step_measures_it_anew(tmp_path):
    module, first, second = Keeps(), GradientMonitor(), GradientMonitor()
    checkpoints = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=1, save_top_k=-1)
    run = trainer(first, checkpoints)
    run.fit(module, loader(batches(2)), loader(batches(2)))
    run.callbacks = [second if callback is first else callback for callback in run.callbacks]
    large = [(x, y + 1000.0) for x, y in batches(2)]
    run.fit(module, loader(large), loader(batches(2)), ckpt_path=tmp_path / "step=1.ckpt", weights_only=False)
    before, after = first.history[-1], second.history[-1]
    assert before.step == after.step == 1
    assert after.values["grad_norm/total"] > 100 * before.values["grad_norm/total"]


def test_within_a_step_there_is_one_pass_for_all(monkeypatch):
    made = []
    measure = floor.local_gradient_norms
    monkeypatch.setattr(floor, "local_gradient_norms", lambda *given: made.append(1) or measure(*given))
    run = trainer(GradientMonitor(prefix="a/"), GradientMonitor(prefix="b/"))
    run.fit(Keeps(), loader(batches(3)), loader(batches(2)))
    assert len(made) == 3
