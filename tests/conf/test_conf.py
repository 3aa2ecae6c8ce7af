"""Every config file composes and instantiates; the groups work in an application that is not ours."""

from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_dir, initialize_config_module
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.loggers import Logger
from omegaconf import OmegaConf

CONF = Path(__file__).parents[2] / "conf"
FILES = sorted(
    str(path.relative_to(CONF).with_suffix("")) for path in CONF.rglob("*.yaml") if path != CONF / "train.yaml"
)
# What a file needs beside itself to be a whole: the data that a model fits, a class where none is named.
COMPANY = {
    "model/regressor": ["data=diabetes"],
    "data/diabetes": ["model=regressor"],
    "data/wine": ["model.num_classes=3", "model.net.in_features=13"],
    "data/breast_cancer": ["model.num_classes=2", "model.net.in_features=30"],
    "data/text": ["model=gpt"],
    "model/custom": ["model._target_=lightning.pytorch.demos.boring_classes.BoringModel"],
    "data/custom": ["data._target_=lightning.pytorch.demos.boring_classes.BoringDataModule"],
    # An accelerator that this machine lacks cannot be instantiated; all else of the file is.
    "trainer/gpu": ["trainer.accelerator=cpu"],
}
COMPANY |= {f"model/gpt{size}": ["data=text"] for size in ("", "_tiny", "_base", "_large")}


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


def test_every_file_is_walked():
    assert len(FILES) >= 40
    assert {file.split("/")[0] for file in FILES} == {path.name for path in CONF.iterdir() if path.is_dir()} - {
        "__pycache__"
    }


@pytest.mark.parametrize("file", FILES)
def test_every_file_composes_and_instantiates(application, file):
    group, _, option = file.rpartition("/")
    cfg = application(f"{group}={option}", *COMPANY.get(file, []))
    assert not OmegaConf.missing_keys(cfg.model)
    module = instantiate(cfg.model)
    assert isinstance(module, LightningModule)
    assert any(parameter.requires_grad for parameter in module.parameters())
    if cfg.data._target_:
        assert isinstance(instantiate(cfg.data), LightningDataModule)
    optimizer = instantiate(cfg.optimizer)(module.parameters())
    assert optimizer.param_groups[0]["lr"] == cfg.optimizer.lr
    for node in (*cfg.callbacks.values(), cfg.schedule, cfg.initialization):
        assert not node or isinstance(instantiate(node), Callback)
    for node in cfg.logger.values():
        assert isinstance(instantiate(node), Logger)
    assert isinstance(instantiate(cfg.trainer, logger=False), Trainer)


def test_gpt_sizes_are_what_their_file_says(application):
    sizes = {}
    for name in ("gpt_tiny", "gpt", "gpt_base", "gpt_large"):
        module = instantiate(application(f"model={name}", "data=text").model)
        sizes[name] = sum(parameter.numel() for parameter in module.parameters())
    assert 0.09e6 < sizes["gpt_tiny"] < 0.13e6
    assert 0.8e6 < sizes["gpt"] < 0.9e6
    assert 2.6e6 < sizes["gpt_base"] < 2.8e6
    assert 113e6 < sizes["gpt_large"] < 115e6


def test_callbacks_are_chosen_changed_and_dropped_on_the_command_line(application):
    chosen = application("callbacks/gradtools=[gradient_monitor]", "callbacks.gradient_monitor.log_every_n_steps=10")
    assert chosen.callbacks.gradient_monitor.log_every_n_steps == 10
    assert "gradient_clipping" not in chosen.callbacks
    assert "gradient_monitor" not in application("~callbacks.gradient_monitor").callbacks


def test_two_lines_add_our_callbacks_to_another_application(tmp_path):
    """The application has its own `callbacks/default.yaml`, which wins over ours."""
    (tmp_path / "callbacks").mkdir()
    own = {"checkpoint": {"_target_": "lightning.pytorch.callbacks.ModelCheckpoint"}}
    (tmp_path / "callbacks" / "default.yaml").write_text(yaml.safe_dump(own))
    (tmp_path / "app.yaml").write_text(
        yaml.safe_dump(
            {
                "defaults": [{"callbacks": "default"}, {"callbacks/gradtools": "default"}, "_self_"],
                "hydra": {"searchpath": ["pkg://lightning_gradtools.conf"]},
            }
        )
    )
    with initialize_config_dir(str(tmp_path), version_base="1.3"):
        default = compose("app")
        changed = compose(
            "app",
            [
                "callbacks/gradtools=[gradient_monitor,warmup_cosine_schedule]",
                "callbacks.gradient_monitor.top_k=3",
                "callbacks.warmup_cosine_schedule.warmup_steps=7",
            ],
        )
    assert set(default.callbacks) == {"checkpoint", "gradient_monitor", "gradient_clipping"}
    assert set(changed.callbacks) == {"checkpoint", "gradient_monitor", "warmup_cosine_schedule"}
    for node in changed.callbacks.values():
        assert isinstance(instantiate(node), Callback)
    assert instantiate(changed.callbacks.warmup_cosine_schedule).warmup_steps == 7
