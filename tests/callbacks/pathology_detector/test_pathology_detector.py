import json
import warnings

import pytest
import torch
import torch.nn.functional as F
from helpers import pathology_cases as cases
from helpers.launcher import launch
from helpers.pathology_cases import HEALTHY, SICK, Classification, digits, serious, stack, verdicts, watch
from helpers.runs import fit, trainer
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from lightning_gradtools.arguments import ArgumentError
from lightning_gradtools.callbacks import PathologyDetector
from lightning_gradtools.callbacks.pathology_detector import PathologyError
from lightning_gradtools.diagnosis import Kind, Severity


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:  # the folder of each test is changed to after this
        patch.chdir(tmp_path_factory.mktemp("alone"))
        return cases.one_process()


def test_sick_runs_are_told_by_kind_and_layer(alone):
    found = {name: {(kind, layer) for kind, layer, *_ in verdict} for name, verdict in alone.items()}
    assert ("vanishing_gradient", "net.0") in found["sigmoid stack"]
    assert ("dead_relu", "net.3") in found["killed units"]
    assert ("poor_initialization", "net.0") in found["constant weights"]
    steps = [step for verdict in alone.values() for kind, _, step, *_ in verdict if kind != "stalled_training"]
    assert max(steps) <= 50


def test_a_healthy_run_yields_nothing(alone):
    assert not [each for each in alone["relu stack"] if each[3] != "info"]


@pytest.mark.parametrize("name", [*SICK, *HEALTHY])
@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_scaling_the_loss_and_dividing_the_rate_leaves_every_verdict(alone, name, scale):
    module = {**SICK, **HEALTHY}[name]()
    module.scale = scale
    assert verdicts(watch(module)) == alone[name]


def test_two_processes_find_what_one_finds(alone):
    first, second = launch(cases.two_processes)
    assert first == second
    for name in ("sigmoid stack", "killed units"):
        assert first[name] == alone[name], name
    for name in ("killed units", "constant weights"):
        assert first[f"{name}, FSDP2"] == alone[name], name
    *apart, layers = first["apart"]
    assert ("dead_relu", "net.3", "critical") in {(kind, layer, severity) for kind, layer, _, severity, _ in apart}
    assert "no_gradient" not in {kind for kind, *_ in apart}
    assert set(layers) == {5}
    (finding,) = [each for each in first["poisoned"] if each["kind"] == "nonfinite"]
    evidence = {each["quantity"]: each["value"] for each in finding["evidence"]}
    assert evidence["rank"] == 1
    assert finding["step"] == 8


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.AdamW])
@pytest.mark.parametrize("name", ["killed units", "relu stack"])
def test_weights_are_the_same_bit_by_bit_without_it(name, optimizer):
    def weights(*callbacks):
        torch.manual_seed(1)
        module = {**SICK, **HEALTHY}[name]()
        module.net.insert(2, nn.Dropout(0.1))
        module.make, module.lr = optimizer, 1e-2
        trainer(*callbacks, max_epochs=2).fit(module, digits())
        return torch.cat([p.detach().reshape(-1) for p in module.parameters()])

    detector = PathologyDetector(3, table=False, on_critical="log", on_warning="log")
    assert torch.equal(weights(), weights(detector))
    assert detector.failure is None
    assert len(detector.history.observations) > 10


class Healthy:
    """Networks and ways to train them that other detectors take for sick."""

    @staticmethod
    def sparse():
        net = stack(nn.ReLU, 2, width=128)
        nn.init.constant_(net[0].bias, -1.0)
        return Classification(net), {}

    @staticmethod
    def zero_initialised_branches():
        class Block(nn.Module):
            def __init__(self):
                super().__init__()
                self.first, self.second = nn.Linear(32, 32), nn.Linear(32, 32)
                nn.init.zeros_(self.second.weight)
                nn.init.zeros_(self.second.bias)

            def forward(self, x):
                return x + self.second(F.relu(self.first(x)))

        return Classification(nn.Sequential(nn.Linear(64, 32), *[Block() for _ in range(12)], nn.Linear(32, 10))), {}

    @staticmethod
    def frozen_backbone():
        net = stack(nn.ReLU, 3)
        net[:4].requires_grad_(False)
        return Classification(net), {}

    @staticmethod
    def learning_rate_zero_at_first():
        class WarmUp(Classification):
            def configure_optimizers(self):
                optimizer = super().configure_optimizers()
                schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, step / 50))
                return [optimizer], [{"scheduler": schedule, "interval": "step"}]

        return WarmUp(stack(nn.ReLU, 3)), {}

    @staticmethod
    def tail_of_a_cosine():
        class Tail(Classification):
            def configure_optimizers(self):
                optimizer = super().configure_optimizers()
                schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: max(0.0, 1 - step / 100) ** 4)
                return [optimizer], [{"scheduler": schedule, "interval": "step"}]

        return Tail(stack(nn.ReLU, 3), lr=0.3), {"steps": 160}

    @staticmethod
    def batches_of_two():
        return Classification(stack(nn.ReLU, 2), lr=0.01), {"data": digits(2), "steps": 400}

    @staticmethod
    def converged():
        return Classification(stack(nn.ReLU, 2), lr=3e-3, optimizer=torch.optim.Adam), {"steps": 400}

    @staticmethod
    def bfloat16():
        return Classification(stack(nn.ReLU, 3)), {"precision": "bf16-mixed"}

    @staticmethod
    def accumulation():
        return Classification(stack(nn.ReLU, 3)), {"data": digits(16), "accumulate_grad_batches": 4}

    @staticmethod
    def linear():
        return Classification(nn.Linear(64, 10)), {}


@pytest.mark.parametrize("name", [name for name in vars(Healthy) if not name.startswith("_")])
def test_silence_on_hard_healthy_runs(name):
    module, settings = getattr(Healthy, name)()
    assert not serious(watch(module, **{"steps": 120, **settings}))


def test_losses_are_those_of_the_steps_under_accumulation_with_a_tail():
    losses = []

    class Noted(Classification):
        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)
            losses.append(loss.item())
            return loss

    detector = watch(Noted(stack(nn.ReLU, 1), lr=0.0), data=digits(128), steps=5, accumulate_grad_batches=4)
    expected = [sum(losses[:4]) / 4, sum(losses[4:8]) / 4, sum(losses[8:10]) / 2]  # 10 batches an epoch
    assert [loss for _, loss in detector.history.losses[:3]] == pytest.approx(expected, rel=1e-5)


def test_a_layer_cut_off_from_the_loss():
    class TwoBranches(nn.Module):
        def __init__(self):
            super().__init__()
            self.left, self.right, self.head = nn.Linear(64, 16), nn.Linear(64, 16), nn.Linear(32, 10)

        def forward(self, x):
            return self.head(torch.cat([self.left(x), self.right(x).detach()], -1))

    assert serious(watch(Classification(TwoBranches()))) == {("no_gradient", "net.right")}


def test_a_layer_that_is_never_called_and_one_that_is_called_now_and_then():
    class Heads(Classification):
        def __init__(self):
            super().__init__(stack(nn.ReLU, 1))
            self.rare, self.forgotten = nn.Linear(10, 10), nn.Linear(10, 10)

        def training_step(self, batch, batch_idx):
            x, y = batch
            z = self.net(x)
            return F.cross_entropy(self.rare(z) if self.global_step == 1 else z, y)

    assert serious(watch(Heads())) == {("no_gradient", "forgotten")}


def test_heads_that_take_turns():
    class InTurn(Classification):
        def __init__(self):
            super().__init__(stack(nn.ReLU, 1))
            self.even, self.odd = nn.Linear(10, 10), nn.Linear(10, 10)

        def training_step(self, batch, batch_idx):
            x, y = batch
            z = self.net(x)
            first, second = (self.even(z), self.odd(z))
            return F.cross_entropy(second if self.global_step % 2 else first, y)

    assert not serious(watch(InTurn()))


def test_findings_resolve_when_the_evidence_goes():
    class Revived(Classification):
        def on_train_batch_start(self, batch, batch_idx):
            if self.global_step == 30:
                nn.init.zeros_(self.net[2].bias)

    detector = watch(Revived(cases._killed(stack(nn.ReLU, 3))), steps=121)
    (finding,) = [each for each in detector.findings if each.kind == Kind.DEAD_RELU]
    assert finding.severity == Severity.CRITICAL
    assert 30 < finding.resolved_at <= 120
    revived = [a for a in detector.history.observations[-1].activations if a.name == "net.3"]
    assert revived[0].revived > 16
    assert revived[0].dead < 16


def test_a_resumed_run_finds_what_an_uninterrupted_one_does(tmp_path):
    whole = watch(SICK["killed units"](), steps=100)
    torch.manual_seed(0)
    first = PathologyDetector(table=False, on_warning="log", on_critical="log")
    half = trainer(first, max_epochs=2)
    half.fit(SICK["killed units"](), digits())
    half.save_checkpoint(tmp_path / "half.ckpt")
    second = PathologyDetector(table=False, on_warning="log", on_critical="log")
    rest = trainer(second, max_epochs=5)
    rest.fit(SICK["killed units"](), digits(), ckpt_path=tmp_path / "half.ckpt", weights_only=False)
    assert verdicts(second) == verdicts(whole)
    assert second.history.losses == whole.history.losses
    assert second.history.observations[-1].activations == whole.history.observations[-1].activations


def test_stopping_says_why_and_keeps_the_checkpoint(tmp_path):
    detector = PathologyDetector(on_critical="stop", table=False)
    with pytest.warns(
        UserWarning, match=r"PathologyDetector, step 6, critical: 32 of 32 relu units of net\.3 are dead"
    ):
        run = fit_with_checkpoint(detector, tmp_path)
    assert run.global_step < 20
    assert "dead_relu in net.3" in detector.stop_reason
    assert list(tmp_path.rglob("*.ckpt"))
    assert run.callback_metrics["diagnosis/findings"] == 1
    assert list(Kind)[int(run.callback_metrics["diagnosis/stop_reason"]) - 1] == Kind.DEAD_RELU


def fit_with_checkpoint(detector, folder):
    run = trainer(detector, max_epochs=4, enable_checkpointing=True, default_root_dir=folder)
    run.fit(SICK["killed units"](), digits())
    return run


def test_raising_is_no_failure():
    detector = PathologyDetector(on_critical="raise", table=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(PathologyError, match=r"net\.3"):
            trainer(detector, max_epochs=4).fit(SICK["killed units"](), digits())
    assert detector.failure is None


def test_files_card_keys_and_table(tmp_path, capsys):
    detector = PathologyDetector(on_critical="log")
    logger = TensorBoardLogger(tmp_path)
    run = trainer(detector, logger=logger, max_epochs=2)
    run.fit(SICK["killed units"](), digits())
    lines = (tmp_path / "lightning_logs/version_0/findings.jsonl").read_text().splitlines()
    first = json.loads(lines[0])
    assert (first["kind"], first["layer"], first["severity"]) == ("dead_relu", "net.3", "critical")
    assert first["evidence"][0]["value"] == 1.0
    board = EventAccumulator(logger.log_dir).Reload()
    assert board.Scalars("dead_units/net.3")[-1].value == 1.0
    assert board.Scalars("diagnosis/findings")[-1].value == 1.0
    assert "backward_gain/net.4" in board.Tags()["scalars"]
    card = board.Tensors("diagnosis/findings/text_summary")[-1].tensor_proto.string_val[0].decode()
    assert "### critical: dead_relu in net.3" in card
    printed = capsys.readouterr().out
    assert "dead_relu" in printed
    assert "group['lr'] = 0.01" in printed


def test_an_application_with_a_command_line_says_how_a_remedy_is_given_there():
    detector = PathologyDetector(table=False, on_critical="log")
    detector.overrides_for = lambda remedy: (f"try={remedy.change}",)
    trainer(detector).fit(SICK["killed units"](), digits())
    assert "[try=lower_learning_rate]" in detector.table()


def test_a_training_step_without_a_batch_index():
    class Short(Classification):
        def training_step(self, batch):
            return super().training_step(batch, 0)

    assert len(watch(Short(stack(nn.ReLU, 1)), steps=10).history.observations) == 5


def test_units_are_seen_under_compile():
    module = SICK["killed units"]()
    module.net = torch.compile(module.net, backend="eager")
    assert ("dead_relu", "net.3") in serious(watch(module, steps=20))


def test_two_optimizers_by_hand_have_no_loss_that_must_fall():
    class ByHand(Classification):
        def __init__(self, net):
            super().__init__(net)
            self.automatic_optimization = False

        def training_step(self, batch, batch_idx):
            for optimizer in self.optimizers():
                optimizer.zero_grad()
                self.manual_backward(torch.rand(()) + 0 * super().training_step(batch, batch_idx))
                optimizer.step()

        def configure_optimizers(self):
            return [torch.optim.SGD(part.parameters(), lr=0.1) for part in (self.net[:2], self.net[2:])]

    detector = watch(ByHand(stack(nn.ReLU, 2)), steps=160)
    assert not detector.history.losses
    assert not {kind for kind, _ in serious(detector)} & {"stalled_training", "vanishing_gradient"}


@pytest.mark.parametrize(
    "argument", [{"every_n_steps": 0}, {"patience": 0}, {"on_critical": "explode"}, {"on_info": "shout"}]
)
def test_bad_arguments_are_refused_by_name(argument):
    with pytest.raises(ArgumentError, match=next(iter(argument))):
        PathologyDetector(**argument)


def test_the_regression_of_the_other_tests_is_watched_without_a_known_class():
    from helpers.runs import Regression

    detector = PathologyDetector(table=False)
    fit(Regression(), detector)
    assert detector.failure is None
    assert detector.history.observations[-1].skill is not None
