"""What remedies tell to type composes, and changes what it is to change."""

from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest
from hydra import compose, initialize_config_module
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from lightning.pytorch import Callback

from lightning_gradtools.callbacks import PathologyDetector
from lightning_gradtools.cli.ownership import Ownership
from lightning_gradtools.cli.remedies import offer_overrides, overrides_for
from lightning_gradtools.diagnosis import Change, Remedy

OWN = ("model=custom", "model._target_=lightning.pytorch.demos.boring_classes.BoringModel")


@pytest.fixture
def application(tmp_path):
    """Compose `train` as the application does, with ``hydra:`` values in reach; return the config."""

    def run(*overrides):
        with initialize_config_module("lightning_gradtools.conf", version_base="1.3"):
            cfg = compose("train", [*overrides, f"hydra.runtime.output_dir={tmp_path}"], return_hydra_config=True)
        HydraConfig.instance().set_config(cfg)
        return cfg

    yield run
    HydraConfig.instance().cfg = None


def remedy(change, value=None):
    return Remedy("Mend it.", change=change, value=value)


LOWER = remedy(Change.LOWER_LEARNING_RATE, 2e-5)
ADDED_CLIPPING = (
    "+callbacks.gradient_clipping._target_=lightning_gradtools.callbacks.GradientClipping",
    "+callbacks.gradient_clipping.max_norm=1",
)
DEFAULT = ()
BARE = ("schedule=none", "callbacks/gradtools=[gradient_monitor]")


@pytest.mark.parametrize(
    ("given", "told", "expected"),
    [
        (DEFAULT, LOWER, "optimizer.lr=2e-05"),
        (DEFAULT, remedy(Change.RAISE_LEARNING_RATE, 0.1), "optimizer.lr=0.1"),
        (DEFAULT, remedy(Change.RAISE_LEARNING_RATE), ""),
        (DEFAULT, remedy(Change.LOWER_LEARNING_RATE, 0.003), ""),
        (DEFAULT, remedy(Change.SEARCH_LEARNING_RATE, 0.1), "tune=lr"),
        (DEFAULT, remedy(Change.WARM_UP), "schedule.warmup_steps=0.1"),
        (("schedule.warmup_steps=0.4",), remedy(Change.WARM_UP), "schedule.warmup_steps=0.5"),
        (("schedule.warmup_steps=100",), remedy(Change.WARM_UP), "schedule.warmup_steps=200"),
        (("schedule.warmup_steps=0",), remedy(Change.WARM_UP), "schedule.warmup_steps=0.05"),
        (("schedule.warmup_steps=2 epochs",), remedy(Change.WARM_UP), ""),
        (("schedule=step",), remedy(Change.WARM_UP), "schedule=warmup_cosine"),
        (BARE, remedy(Change.WARM_UP), "schedule=warmup_cosine"),
        (BARE, remedy(Change.DECAY_LEARNING_RATE), "schedule=warmup_cosine"),
        (DEFAULT, remedy(Change.DECAY_LEARNING_RATE), ""),
        (("schedule.total_steps=50",), remedy(Change.SCHEDULE_OVER_RUN), "schedule.total_steps=null"),
        (("schedule=exponential",), remedy(Change.SCHEDULE_OVER_RUN), "schedule=warmup_cosine"),
        (DEFAULT, remedy(Change.SCHEDULE_OVER_RUN), ""),
        (DEFAULT, remedy(Change.CLIP_NORM), "callbacks.gradient_clipping.max_norm=0.1"),
        (BARE, remedy(Change.CLIP_NORM), " ".join(ADDED_CLIPPING)),
        (("callbacks=none", "callbacks/gradtools=none"), remedy(Change.CLIP_NORM), " ".join(ADDED_CLIPPING)),
        (
            ("callbacks.gradient_clipping.max_norm=null", "callbacks.gradient_clipping.clip_value=0.5"),
            remedy(Change.CLIP_NORM),
            "callbacks.gradient_clipping.max_norm=1 callbacks.gradient_clipping.clip_value=null",
        ),
        (
            ("callbacks.gradient_clipping.max_norm=null", "callbacks.gradient_clipping.zscore=2.5"),
            remedy(Change.CLIP_NORM),
            "callbacks.gradient_clipping.max_norm=1",
        ),
        ((*BARE, "+trainer.gradient_clip_val=2"), remedy(Change.CLIP_NORM), "trainer.gradient_clip_val=0.2"),
        (DEFAULT, remedy(Change.RAISE_MAX_NORM), "callbacks.gradient_clipping.max_norm=10"),
        (BARE, remedy(Change.RAISE_MAX_NORM), ""),
        ((*BARE, "+trainer.gradient_clip_val=2"), remedy(Change.RAISE_MAX_NORM), "trainer.gradient_clip_val=20"),
        (DEFAULT, remedy(Change.SKIP_NONFINITE), ""),
        (
            ("callbacks.gradient_clipping.on_nonfinite=raise",),
            remedy(Change.SKIP_NONFINITE),
            "callbacks.gradient_clipping.on_nonfinite=skip",
        ),
        (BARE, remedy(Change.SKIP_NONFINITE), " ".join(ADDED_CLIPPING)),
        ((*BARE, "+trainer.gradient_clip_val=2"), remedy(Change.SKIP_NONFINITE), ""),
        (
            ("experiment=vanishing_sigmoid",),
            remedy(Change.USE_RELU),
            "model.net.activation=relu model.net.init=he",
        ),
        (("model=gpt", "data=text"), remedy(Change.USE_RELU), "model.net.activation=relu"),
        (DEFAULT, remedy(Change.USE_RELU), ""),
        (DEFAULT, remedy(Change.USE_LEAKY_RELU), "model.net.activation=leaky_relu"),
        (("experiment=exploding_init",), remedy(Change.HE_INIT), "model.net.init_scale=1"),
        (DEFAULT, remedy(Change.XAVIER_INIT), "model.net.init=xavier"),
        (("model=gpt", "data=text"), remedy(Change.HE_INIT), ""),
        (OWN, remedy(Change.HE_INIT), "initialization=he"),
        ((*OWN, "initialization=he"), remedy(Change.HE_INIT), ""),
        (DEFAULT, remedy(Change.ADD_RESIDUAL), "model=residual_mlp"),
        (("model=cnn",), remedy(Change.ADD_RESIDUAL), ""),
        (("model=regressor", "data=diabetes"), remedy(Change.ADD_RESIDUAL), ""),
        (DEFAULT, remedy(Change.NORMALISE), "model.net.norm=layer"),
        (("model=cnn",), remedy(Change.NORMALISE), ""),
        (("model.net.depth=8",), remedy(Change.LESS_DEPTH), "model.net.depth=4"),
        (("model.net.depth=1",), remedy(Change.LESS_DEPTH), ""),
        (("model=cnn",), remedy(Change.LESS_DEPTH), ""),
        (DEFAULT, remedy(Change.LESS_WEIGHT_DECAY, 0.0), "optimizer.weight_decay=0"),
        (("optimizer=sgd",), remedy(Change.LESS_WEIGHT_DECAY, 0.0), ""),
        (DEFAULT, remedy(Change.RAISE_EPS, 1e-6), "+optimizer.eps=1e-06"),
        (("+optimizer.eps=1e-8",), remedy(Change.RAISE_EPS, 1e-6), "optimizer.eps=1e-06"),
        (("optimizer=sgd",), remedy(Change.RAISE_EPS, 1e-6), ""),
        (DEFAULT, remedy(Change.OVERFIT_ONE_BATCH), "debug=overfit_batches"),
        (DEFAULT, Remedy("Look."), ""),
    ],
    ids=lambda each: " ".join(each) if isinstance(each, tuple) else str(getattr(each, "change", each)),
)
def test_a_change_by_the_config_it_is_made_in(application, given, told, expected):
    cfg = application(*given)
    found = overrides_for(told, cfg)
    assert found == tuple(expected.split())
    changed = application(*replaced(given, found), *found)
    if found:
        assert changed != cfg
    for node in (*changed.callbacks.values(), changed.schedule, changed.initialization):
        assert not node or isinstance(instantiate(node), Callback)
    assert changed.callbacks.keys() >= cfg.callbacks.keys(), "what was chosen stays"
    instantiate(changed.model)
    instantiate(changed.optimizer)


def replaced(given, found):
    """A group may be chosen once only: the new choice takes the old one's place."""
    groups = {each.split("=")[0] for each in found}
    return [each for each in given if each.split("=")[0] not in groups]


@pytest.mark.parametrize(
    "given",
    [
        ("callbacks=none", "callbacks/gradtools=pathology_detector", "schedule=none"),
        ("model=residual_mlp", "optimizer=sgd_momentum", "schedule=plateau"),
        (*OWN, "data=none"),
    ],
    ids=" ".join,
)
def test_whatever_is_told_composes_beside_what_was_given(application, given):
    cfg = application(*given)
    told = {change: overrides_for(remedy(change, 0.0123), cfg) for change in Change}
    assert sum(map(bool, told.values())) >= 5
    for found in told.values():
        assert not found or application(*replaced(given, found), *found) != cfg


@dataclass
class Teller:
    """As a detector: it prints remedies."""

    overrides_for: object = field(default=None)


def ownership(optimizer_from_config):
    return Ownership(
        optimizer_from_config=optimizer_from_config,
        installs_optimizer=False,
        schedule_from_config=optimizer_from_config,
    )


def test_callbacks_that_tell_remedies_are_given_the_overrides(application):
    teller, other = Teller(), SimpleNamespace()
    offer_overrides([other, teller], application(), ownership(True))
    assert teller.overrides_for(LOWER) == ("optimizer.lr=2e-05",)
    assert not vars(other)


@pytest.mark.parametrize(("given", "schedule"), [((), ()), (("apply_schedule=true",), ("schedule=warmup_cosine",))])
def test_a_module_that_keeps_its_own_optimizer_is_not_told_to_change_the_groups(application, given, schedule):
    teller = Teller()
    offer_overrides([teller], application("schedule=none", *given), ownership(False))
    for told in (LOWER, remedy(Change.LESS_WEIGHT_DECAY, 0.0), remedy(Change.RAISE_EPS, 1e-6)):
        assert teller.overrides_for(told) == ()
    assert teller.overrides_for(remedy(Change.SEARCH_LEARNING_RATE, 0.1)) == ()
    assert teller.overrides_for(remedy(Change.WARM_UP)) == schedule
    assert teller.overrides_for(remedy(Change.DECAY_LEARNING_RATE)) == schedule
    assert teller.overrides_for(remedy(Change.USE_LEAKY_RELU)) == ("model.net.activation=leaky_relu",)


def test_a_run_gives_them_to_its_detector(gradtools_train, monkeypatch):
    told = []
    monkeypatch.setattr(PathologyDetector, "overrides_for", None, raising=False)
    monkeypatch.setattr(PathologyDetector, "on_fit_end", lambda self, *_: told.append(self.overrides_for(LOWER)))
    assert gradtools_train("callbacks/gradtools=pathology_detector", "debug=fast_dev_run") == 0
    assert told == [("optimizer.lr=2e-05",)]
