import warnings

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import LearningRateFinder
from lightning.pytorch.strategies import SingleDeviceStrategy
from lightning.pytorch.utilities.compile import from_compiled
from torch import nn
from torch.nn.utils import parametrizations, prune
from torch.utils.data import DataLoader
from torchmetrics.regression import MeanSquaredError

from lightning_gradtools.arguments import ArgumentError
from lightning_gradtools.callbacks.weight_initialization import WeightInitialization


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(32, 64), nn.Linear(64, 32)

    def forward(self, x):
        return x + self.down(torch.relu(self.up(x)))


class Net(LightningModule):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(16, 32), nn.BatchNorm1d(32), Block(), nn.Linear(32, 1))
        self.metric = MeanSquaredError()
        self.batches, self.counts = [], []

    def training_step(self, batch, batch_idx):
        self.batches.append(batch.clone())
        out = self.net(batch)
        self.metric(out, torch.zeros_like(out))
        self.counts.append(int(self.metric.total))
        self.log("mse", self.metric)
        return out.square().mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.0)

    def train_dataloader(self):
        data = torch.randn(24, 16, generator=torch.Generator().manual_seed(0))
        return DataLoader(data, batch_size=8, shuffle=True)


@pytest.fixture
def fit(tmp_path):
    def fit(module, *callbacks, ckpt_path=None, **arguments):
        trainer = Trainer(
            **{"max_epochs": 1, **arguments},
            accelerator="cpu",
            devices=1,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=tmp_path,
            callbacks=list(callbacks),
        )
        torch.manual_seed(1)
        trainer.fit(module, ckpt_path=ckpt_path)
        return trainer

    return fit


def test_initialises_says_so_and_changes_nothing_else(fit, caplog):
    torch.manual_seed(0)
    plain, net = Net(), Net()
    callback = WeightInitialization("he", zero_residual=True)
    fit(plain)
    with caplog.at_level("INFO"):
        fit(net, callback)
    assert {layer.name: (layer.scheme, layer.reads) for layer in callback.result.layers} == {
        "net.0": ("he", "none"),
        "net.2.up": ("he", "none"),
        "net.2.down": ("zero", "relu"),
        "net.3": ("he", "none"),
    }
    assert not net.net[2].down.weight.any()
    assert net.net[0].weight.std().item() == pytest.approx(16**-0.5, rel=0.1)
    assert "WeightInitialization: 4 layers\n  3 × he, gain 1\n  1 × zero, at the end" in caplog.text
    # The same batches in the same order, batch statistics and metrics of three batches and no more.
    assert all(map(torch.equal, plain.batches, net.batches))
    assert len(plain.batches) == len(net.batches) == net.net[1].num_batches_tracked == 3
    assert plain.counts == net.counts == [8, 16, 24]


def test_the_same_seed_gives_the_same_weights_and_lsuv_unit_outputs(fit):
    nets = []
    for seed in (3, 3, 4):
        nets.append(Net())
        fit(nets[-1], WeightInitialization("lsuv", seed=seed))
    first = nets[0].net[0](nets[0].batches[0])  # batch statistics come after
    assert torch.equal(nets[0].net[0].weight, nets[1].net[0].weight)
    assert not torch.equal(nets[0].net[0].weight, nets[2].net[0].weight)
    assert first.std().item() == pytest.approx(1, abs=0.3)  # LSUV saw another draw of the shuffled data


def test_a_resumed_run_keeps_its_weights(fit, tmp_path, caplog):
    class Save(Callback):
        def on_train_end(self, trainer, pl_module):
            trainer.save_checkpoint(tmp_path / "end.ckpt")

    net, resumed, callback = Net(), Net(), WeightInitialization("xavier", force=True)
    fit(net, WeightInitialization("xavier"), Save())
    with caplog.at_level("INFO"):
        fit(resumed, callback, max_epochs=2, ckpt_path=tmp_path / "end.ckpt")
    assert torch.equal(net.net[0].weight, resumed.net[0].weight)
    assert callback.result is None
    assert "continues from a checkpoint" in caplog.text


def test_pretrained_weights_stay_unless_forced(fit, caplog):
    pretrained = Net()
    fit(pretrained, WeightInitialization("he"))
    net = Net()
    net.load_state_dict(pretrained.state_dict())
    callback = WeightInitialization("xavier")
    with caplog.at_level("INFO"):
        fit(net, callback)
    assert callback.result.layers == ()
    assert torch.equal(net.net[0].weight, pretrained.net[0].weight)
    assert "4 left alone, as not torch's default (net.0, net.2.up, net.2.down, net.3)" in caplog.text
    fit(net, WeightInitialization("xavier", force=True))
    assert not torch.equal(net.net[0].weight, pretrained.net[0].weight)


class Manual(Net):
    def __init__(self):
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        self.optimizers().step()

    def forward(self, x):
        return self.net(x)


def test_a_module_that_optimises_manually_is_run_on_its_example(fit):
    with pytest.raises(ArgumentError, match=r"^Manual\.example_input_array=None: must be given"):
        fit(Manual(), WeightInitialization())
    net, callback = Manual(), WeightInitialization()
    net.example_input_array = torch.randn(2, 16)
    fit(net, callback)
    assert len(callback.result.layers) == 4


class Middle(LightningModule):
    """A middle layer behind ReLU, stored, frozen or compiled as the test likes."""

    def __init__(self, wrap=lambda layer: layer):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(16, 128), nn.ReLU(), wrap(nn.Linear(128, 128)), nn.ReLU(), nn.Linear(128, 1))

    def training_step(self, batch, batch_idx):
        return self.net(batch).square().mean()

    configure_optimizers = Net.configure_optimizers
    train_dataloader = Net.train_dataloader


def compiled_whole(module):
    return from_compiled(torch.compile(module, backend="eager"))


def compiled_in_place(module):
    module.net[2].compile(backend="eager")
    return module


def older_weight_norm(layer):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # the older function is deprecated, and much in use
        return torch.nn.utils.weight_norm(layer)


SET = {
    "parametrized": (lambda: Middle(parametrizations.weight_norm), lambda module: module),
    "by a hook": (lambda: Middle(older_weight_norm), lambda module: module),
    "a compiled layer": (lambda: Middle(lambda layer: torch.compile(layer, backend="eager")), lambda module: module),
    "compiled in place": (Middle, compiled_in_place),
    "compiled whole": (Middle, compiled_whole),
}


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # torch.compile, of any layer behind another
@pytest.mark.parametrize("scheme", ["he", "lsuv"])
@pytest.mark.parametrize(("make", "prepare"), SET.values(), ids=SET)
def test_behind_a_parametrization_or_compiled_a_layer_gets_what_a_plain_one_gets(fit, make, prepare, scheme):
    plain, net = Middle(), prepare(make())
    callbacks = [WeightInitialization(scheme, seed=1) for _ in range(2)]
    for module, callback in zip((plain, net), callbacks, strict=True):
        fit(module, callback)
    assert callbacks[0].result.left_alone == callbacks[1].result.left_alone == ()
    for mine, theirs in zip(*(callback.result.layers for callback in callbacks), strict=True):
        assert (mine.name, mine.scheme, mine.reads) == (theirs.name, theirs.scheme, theirs.reads)
    data = torch.randn(4, 128)
    torch.testing.assert_close(net.net[2](data), plain.net[2](data), rtol=1e-4, atol=1e-5)
    if scheme == "he":
        weight = (net.net[2](torch.eye(128)) - net.net[2](torch.zeros(1, 128))).T
        assert weight.std().item() == pytest.approx((2 / 128) ** 0.5, rel=0.03)


@pytest.mark.parametrize("scheme", ["he", "lsuv"])
def test_a_compiled_network_is_looked_at_without_compiling(fit, scheme):
    graphs, at_start = [], []

    class Looks(Callback):
        def on_train_start(self, trainer, pl_module):
            at_start.append(len(graphs))

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    net, callback = Middle(), WeightInitialization(scheme)
    net.net = torch.compile(net.net, backend=backend)
    fit(net, callback, Looks())
    assert at_start == [0]
    assert graphs, "training is compiled"
    reads = [(layer.name, layer.reads) for layer in callback.result.layers]
    assert reads == [("net.0", "none"), ("net.2", "relu"), ("net.4", "relu")]


LEFT = {
    "spectral_norm": (parametrizations.spectral_norm, "made by SpectralNorm, which does not hold the weights wanted"),
    "pruned": (
        lambda layer: prune.l1_unstructured(layer, "weight", 0.5),
        "made by pruning, which does not hold the weights wanted",
    ),
    "lazy": (lambda _: nn.LazyLinear(128), "lazy and without weights until they have run"),
    "frozen": (lambda layer: layer.requires_grad_(False), "frozen"),
}


@pytest.mark.filterwarnings("ignore:The total number of parameters:UserWarning")  # Lightning, of lazy ones
@pytest.mark.parametrize("scheme", ["he", "lsuv"])
@pytest.mark.parametrize(("wrap", "reason"), LEFT.values(), ids=LEFT)
def test_what_it_left_alone_is_said_with_the_reason_and_only_that(fit, caplog, wrap, reason, scheme):
    net, callback = Middle(wrap), WeightInitialization(scheme, force=True)
    with caplog.at_level("INFO"):
        fit(net, callback)
    assert [layer.name for layer in callback.result.layers] == ["net.0", "net.4"]
    assert callback.result.left_alone == ("net.2",)
    assert f"  1 left alone, as {reason}" in caplog.text
    assert "(net.2)" in caplog.text
    assert "force=True for all" not in caplog.text
    assert "2 layers" in caplog.text


def test_tied_weights_are_said_to_be_done_once(fit, caplog):
    def tie(layer):
        return nn.Sequential(layer, nn.Linear(128, 128))

    net = Middle(tie)
    net.net[2][1].weight = net.net[2][0].weight
    with caplog.at_level("INFO"):
        fit(net, WeightInitialization())
    assert "  net.2.0 is tied with net.2.1: done once, as he" in caplog.text


@pytest.mark.parametrize("arguments", [{"scheme": "glorot"}, {"embedding_std": -1.0}, {"seed": -1}])
def test_bad_arguments_are_named(arguments):
    (name,) = arguments
    with pytest.raises(ArgumentError, match=rf"^{name}="):
        WeightInitialization(**arguments)


def test_the_checkpoint_of_lightnings_tuner_is_no_resume(fit):
    finder = LearningRateFinder(min_lr=1e-6, num_training_steps=5, early_stop_threshold=None, update_attr=False)
    callback = WeightInitialization("xavier", force=True)
    fit(Net(), finder, callback)
    assert callback.result is not None


@pytest.mark.parametrize("resumed", [True, False])
def test_where_the_checkpoint_is_read_after_fit_start_the_weights_of_a_resumed_run_stay(fit, tmp_path, resumed):
    """As under FSDP and ModelParallelStrategy."""

    class Late(SingleDeviceStrategy):
        restore_checkpoint_after_setup = True

    first = Net()
    fit(first).save_checkpoint(tmp_path / "end.ckpt")
    net, callback = Net(), WeightInitialization("xavier", force=True)
    path = tmp_path / "end.ckpt" if resumed else None
    fit(net, callback, max_epochs=2, ckpt_path=path, strategy=Late(device="cpu"))
    assert (callback.result is None) == resumed
    assert torch.equal(net.net[0].weight, first.net[0].weight) == resumed
