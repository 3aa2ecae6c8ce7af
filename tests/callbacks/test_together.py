"""Our callbacks beside one another, on a second run, and in any order: each says what it says alone."""

import itertools
import math

import pytest
import torch
from helpers.fault_cases import left_behind
from helpers.runs import Regression, batches, fit, loader, trainer
from lightning.pytorch import Callback
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import CheckpointImpl, checkpoint_wrapper

from lightning_gradtools.callbacks import (
    GradientCheck,
    GradientClipping,
    GradientMonitor,
    HessianSpectrum,
    PathologyDetector,
    WeightInitialization,
)

# What each is asked for after a run, without what depends on the clock.
CALLBACKS = {
    "monitor": (
        lambda: GradientMonitor(weight_norm=True, update_ratio=True, cosine=True),
        lambda found: [(record.step, dict(record.values)) for record in found.history],
    ),
    "detector": (
        lambda: PathologyDetector(every_n_steps=1, on_warning="log", on_critical="log"),
        lambda found: (found.history.observations, found.history.losses, found.findings),
    ),
    "spectrum": (
        lambda: HessianSpectrum(every_n_steps=2, top_k=2),
        lambda found: [(step, _timeless(values)) for step, values in found.history],
    ),
    "check": (
        lambda: GradientCheck(on_failure="warn"),
        lambda found: (found.result.wrong, found.result.mixing, found.result.batch_norms),
    ),
    "clipping": (
        lambda: GradientClipping(percentile=50.0, warmup_steps=2, window=4),
        lambda found: found.state_dict(),
    ),
}


def _timeless(values):
    return {key: value for key, value in values.items() if key not in ("curvature/seconds", "curvature/overhead")}


def train(*callbacks, seed=0, data=None):
    torch.manual_seed(seed)
    module = Regression(optimizer=torch.optim.SGD, lr=0.05, momentum=0.9)
    fit(module, *callbacks, data=data)
    return torch.cat([parameter.detach().reshape(-1) for parameter in module.parameters()])


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """What each says, and the weights it leaves: beside clipping, which acts, or without."""
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("alone"))
        for name, (make, read) in CALLBACKS.items():
            for clipped in (False, True):
                callback, clipping = make(), CALLBACKS["clipping"][0]()
                weights = train(*([callback, clipping] if clipped and name != "clipping" else [callback]))
                found[name, clipped or name == "clipping"] = weights, read(callback)
    return found


def same(one, other):
    """Compare, NaN being equal to NaN."""
    return repr(one) == repr(other)


@pytest.mark.parametrize("names", list(itertools.permutations(CALLBACKS, 2)), ids="-".join)
def test_two_in_either_order_say_what_they_say_alone(alone, names):
    made = {name: CALLBACKS[name][0]() for name in names}
    clipped = "clipping" in names
    weights = train(*made.values())
    for name, callback in made.items():
        expected_weights, expected = alone[name, clipped]
        assert torch.equal(weights, expected_weights)
        if not (clipped and name in ("monitor", "clipping")):  # whose keys and counts know of one another
            assert same(CALLBACKS[name][1](callback), expected), name


def test_all_at_once_in_both_orders_leave_the_same_weights(alone):
    made = [make() for make, _ in CALLBACKS.values()]
    expected = alone["clipping", True][0]
    assert torch.equal(train(*made), expected)
    assert torch.equal(train(*[make() for make, _ in reversed(CALLBACKS.values())]), expected)


@pytest.mark.parametrize("name", CALLBACKS)
def test_the_same_object_on_a_second_model_is_as_new(name):
    make, read = CALLBACKS[name]
    used, new = make(), make()
    train(used, seed=1, data=batches(6, scale=1e4))
    weights = train(used)
    assert torch.equal(weights, train(new))
    assert same(read(used), read(new))


def test_two_fits_on_one_optimizer_object_have_norms_of_their_own():
    class Keeps(Regression):
        def configure_optimizers(self):
            if not hasattr(self, "kept"):
                self.kept = torch.optim.SGD(self.parameters(), lr=0.0)
            return self.kept

    module, monitor = Keeps(), GradientMonitor()
    fit(module, monitor, data=batches(2))
    first = [record.values["grad_norm/total"] for record in monitor.history]
    fit(module, monitor, data=batches(2, scale=100.0))
    second = [record.values["grad_norm/total"] for record in monitor.history]
    assert len(first) == len(second) == 2
    assert all(after > 10 * before for before, after in zip(first, second, strict=True))


def test_norms_are_measured_again_where_someone_else_changed_a_gradient_in_between():
    class Double(Callback):
        def on_before_optimizer_step(self, trainer, pl_module, optimizer):
            for parameter in pl_module.parameters():
                parameter.grad.mul_(2)

    before, after = GradientMonitor(prefix="before/"), GradientMonitor(prefix="after/")
    fit(Regression(), before, Double(), after)
    for first, second in zip(before.history, after.history, strict=True):
        ratio = second.values["after/grad_norm/total"] / first.values["before/grad_norm/total"]
        assert ratio == pytest.approx(2, rel=1e-5)


@pytest.mark.parametrize("ending", ["returns -1", "raises", "interrupt", "should_stop"])
@pytest.mark.parametrize("name", CALLBACKS)
def test_however_a_fit_ends_nothing_is_left_and_the_next_one_works(name, ending):
    class Ends(Regression):
        def __init__(self):
            super().__init__()
            self.ended = False

        def on_train_batch_start(self, batch, batch_idx):
            return -1 if ending == "returns -1" and not self.ended and batch_idx == 2 else None

        def training_step(self, batch, batch_idx):
            if batch_idx == 2 and not self.ended:
                if ending == "raises":
                    raise RuntimeError("the user's own")
                if ending == "interrupt":
                    raise KeyboardInterrupt
                if ending == "should_stop":
                    self.trainer.should_stop = True
            return super().training_step(batch, batch_idx)

    make, read = CALLBACKS[name]
    module, callback = Ends(), make()
    before = set(vars(module))
    run = trainer(callback)
    error = {"raises": RuntimeError, "interrupt": SystemExit}.get(ending)
    if error is None:
        run.fit(module, loader(batches()), loader(batches(2)))
    else:
        with pytest.raises(error):
            run.fit(module, loader(batches()), loader(batches(2)))
    assert not left_behind(module, run, before)
    module.ended = True
    fit(module, callback)
    assert not left_behind(module, run, before)
    assert read(callback)
    assert math.isfinite(sum(parameter.sum().item() for parameter in module.parameters()))


WRAPPERS = {
    "checkpointing": lambda module: setattr(module.net, "2", checkpoint_wrapper(module.net[2])),
    "reentrant checkpointing": lambda module: setattr(
        module.net, "2", checkpoint_wrapper(module.net[2], checkpoint_impl=CheckpointImpl.REENTRANT)
    ),
    "a compiled network": lambda module: setattr(module, "net", torch.compile(module.net, backend="eager")),
}


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad:UserWarning")  # torch, in validation
@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
def test_whatever_wraps_a_layer_all_of_them_call_it_what_it_is_called_without(wrap):
    found = []
    for change in (lambda _: None, wrap):
        torch.manual_seed(0)
        module = Regression(optimizer=torch.optim.SGD)
        change(module)
        initialization, monitor = WeightInitialization(seed=0), GradientMonitor(1, group_by="module")
        detector = PathologyDetector(every_n_steps=1, on_warning="log", on_critical="log")
        spectrum = HessianSpectrum(every_n_steps=3, top_k=1, per_layer=True)
        clipping = GradientClipping(0.1, exclude=r"^net\.2\.")
        fit(module, initialization, monitor, detector, spectrum, clipping)
        assert monitor.failure is detector.failure is spectrum.failure is None
        last = monitor.history[-1].values
        assert last["grad_norm_clipped/net.2"] == last["grad_norm/net.2"], "excluded by name"
        assert last["grad_norm_clipped/net.0"] < last["grad_norm/net.0"]
        found.append(
            (
                [(layer.name, layer.reads) for layer in initialization.result.layers],
                sorted(last),
                [layer.name for layer in detector.history.observations[-1].layers],
                [key for key in spectrum.history[-1][1] if "top_eigenvalue/" in key],
            )
        )
    assert found[0] == found[1]
    assert [name for name, _ in found[0][0]] == found[0][2] == ["net.0", "net.2", "net.4"]
