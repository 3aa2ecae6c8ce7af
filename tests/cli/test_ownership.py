import functools
import pickle

import pytest
import torch
from lightning.pytorch import LightningModule
from omegaconf import OmegaConf

from lightning_gradtools.arguments import ArgumentError
from lightning_gradtools.cli.ownership import decide_ownership, install_optimizer


class Without(LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(2, 2)
        self.frozen = torch.nn.Linear(2, 2).requires_grad_(False)


class With(Without):
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=7.0)


def config(model=None, optimizer="auto", schedule="auto"):
    return OmegaConf.create(
        {
            "model": model or {},
            "schedule": {"_target_": "a.Schedule"},
            "apply_optimizer": optimizer,
            "apply_schedule": schedule,
        }
    )


@pytest.mark.parametrize(
    ("module", "optimizer", "schedule", "from_config", "installs", "scheduled"),
    [
        (Without, "auto", "auto", True, True, True),
        (With, "auto", "auto", False, False, False),
        (With, True, "auto", True, True, True),
        (With, "auto", True, False, False, True),
        (With, False, False, False, False, False),
        (Without, "auto", False, True, True, False),
    ],
)
def test_who_owns_what(module, optimizer, schedule, from_config, installs, scheduled):
    owner = decide_ownership(module(), config(optimizer=optimizer, schedule=schedule))
    assert (owner.optimizer_from_config, owner.installs_optimizer, owner.schedule_from_config) == (
        from_config,
        installs,
        scheduled,
    )


def test_a_module_that_takes_the_optimizer_as_an_argument_is_not_given_it_twice():
    owner = decide_ownership(With(), config(model={"optimizer": {}}))
    assert owner.optimizer_from_config
    assert owner.schedule_from_config
    assert not owner.installs_optimizer


def test_nobody_configuring_an_optimizer_is_an_error():
    with pytest.raises(ArgumentError, match="apply_optimizer=False: Without has no configure_optimizers"):
        decide_ownership(Without(), config(optimizer=False))


def test_a_word_that_is_none_of_the_three_is_an_error():
    with pytest.raises(ArgumentError, match="apply_schedule='yes': must be auto, true or false"):
        decide_ownership(With(), config(schedule="yes"))


def test_the_installed_optimizer_holds_the_trainable_parameters_and_travels_to_a_spawned_process():
    module = With()
    install_optimizer(module, functools.partial(torch.optim.SGD, lr=0.5))
    for candidate in (module, pickle.loads(pickle.dumps(module))):
        optimizer = candidate.configure_optimizers()
        assert optimizer.param_groups[0]["lr"] == 0.5
        assert [id(p) for p in optimizer.param_groups[0]["params"]] == [id(p) for p in candidate.layer.parameters()]
