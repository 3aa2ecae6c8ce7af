"""Training loops with one mistake, the same without it, and loops that look like one and are right."""

import copy
import logging
import warnings
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch.plugins import MixedPrecision
from lightning.pytorch.strategies import DDPStrategy
from torch import nn
from torch.optim import lr_scheduler
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, LinearLR, OneCycleLR, SequentialLR

from helpers.pathology_cases import BATCH, Classification, digits, stack, watch
from lightning_gradtools.callbacks import PathologyDetector

STEPS = 41  # two epochs of twenty batches, and one


def regularised() -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(64, 32),
        nn.BatchNorm1d(32),
        nn.ReLU(),
        nn.Dropout(0.1),
        nn.Linear(32, 32),
        nn.ReLU(),
        nn.Linear(32, 10),
    )


class NeverCleared(Classification):
    def optimizer_zero_grad(self, epoch, batch_idx, optimizer):
        pass


class ByHand(Classification):
    """Steps every ``every`` batches, and clears after that unless told not to."""

    def __init__(self, net: nn.Module, every: int = 1, clear: bool = True, max_norm: float = 0.0, **zero_grad: Any):
        super().__init__(net)
        self.automatic_optimization = False
        self.every, self.clear, self.max_norm, self.zero_grad_settings = every, clear, max_norm, zero_grad

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers()
        self.manual_backward(super().training_step(batch, batch_idx) / self.every)
        if (batch_idx + 1) % self.every == 0:
            if self.max_norm:
                self.clip_gradients(optimizer, self.max_norm, "norm")
            optimizer.step()
            if self.clear:
                optimizer.zero_grad(**self.zero_grad_settings)


class InTurns(Classification):
    """A network and its critic, as in a GAN: the loss of each leaves gradients in both, unless ``toggles`` is set.

    Each optimizer's gradients are cleared just before they are needed, or only the network's are.
    """

    def __init__(self, toggles: bool, clears_critic: bool = True):
        super().__init__(stack(nn.ReLU, 2))
        self.automatic_optimization = False
        self.toggles, self.clears_critic = toggles, clears_critic
        self.critic = stack(nn.ReLU, 1)
        self.critic[0] = nn.Linear(10, 32)

    def training_step(self, batch, batch_idx):
        x, y = batch
        for i, optimizer in enumerate(self.optimizers()):
            if self.toggles:
                self.toggle_optimizer(optimizer)
            scores = self.net(x)
            loss = F.cross_entropy(scores, y) + (-1) ** i * 0.1 * self.critic(scores).square().mean()
            if i == 0 or self.clears_critic:
                optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()
            if self.toggles:
                self.untoggle_optimizer(optimizer)

    def configure_optimizers(self):
        return [torch.optim.SGD(part.parameters(), lr=0.02) for part in (self.net, self.critic)]


class Unseen(InTurns):
    """The critic's backward pass is torch's own, of which Lightning does not know."""

    def training_step(self, batch, batch_idx):
        x, y = batch
        first, second = self.optimizers()
        first.zero_grad()
        scores = self.net(x)
        self.manual_backward(F.cross_entropy(scores, y) + 0.1 * self.critic(scores).square().mean())
        first.step()
        second.zero_grad()
        self.critic(self.net(x).detach()).square().mean().backward()
        second.step()


class Evaluating(Classification):
    """Parts of it are put into evaluation mode as training starts."""

    def __init__(self, net: nn.Module, *parts: str):
        super().__init__(net)
        self.parts = parts

    def on_train_start(self):
        for part in self.parts:
            (self.get_submodule(part) if part else self).eval()


def backbone(evaluating: bool = True) -> Classification:
    """A frozen backbone in evaluation mode, with a head to train in the same module."""
    module = Evaluating(regularised(), *(["net"] if evaluating else []))
    module.net[:5].requires_grad_(False)
    return module


class Given(Classification):
    """The optimizer has what does not begin with one of these names."""

    def __init__(self, net: nn.Module, *left_out: str, lr: float = 0.1):
        super().__init__(net, lr)
        self.left_out = left_out

    def configure_optimizers(self):
        chosen = [p for name, p in self.named_parameters() if not name.startswith(self.left_out)]
        return torch.optim.SGD(chosen, lr=self.lr)


class Replaced(Classification):
    """Its network is made anew once the optimizer has the old one."""

    def configure_optimizers(self):
        optimizer = super().configure_optimizers()
        self.net = stack(nn.ReLU, 2)
        return optimizer


class LowRank(nn.Module):
    def __init__(self, layer: nn.Linear, rank: int = 2):
        super().__init__()
        self.layer = layer.requires_grad_(False)
        self.down, self.up = (
            nn.Linear(layer.in_features, rank, bias=False),
            nn.Linear(rank, layer.out_features, bias=False),
        )
        nn.init.zeros_(self.up.weight)

    def forward(self, x):
        return self.layer(x) + self.up(self.down(x))


def low_rank() -> Classification:
    net = stack(nn.ReLU, 2)
    return Classification(nn.Sequential(*(LowRank(each) if isinstance(each, nn.Linear) else each for each in net)))


class Teacher(Classification):
    """A moving average of the network, in evaluation mode and in no optimizer, teaches it."""

    def __init__(self):
        super().__init__(regularised())
        self.teacher = copy.deepcopy(self.net).eval()

    def training_step(self, batch, batch_idx):
        x, _ = batch
        with torch.no_grad():
            target = self.teacher(x).softmax(-1)
        return super().training_step(batch, batch_idx) + 0.1 * F.cross_entropy(self.net(x), target)

    def on_train_batch_end(self, *_: Any):
        with torch.no_grad():
            for mean, new in zip(self.teacher.parameters(), self.net.parameters(), strict=True):
                mean.lerp_(new, 0.05)

    def configure_optimizers(self):
        return torch.optim.SGD(self.net.parameters(), lr=self.lr)


class LookAhead(Classification):
    """Puts its network into evaluation mode once the loss is there, and back at the next step."""

    def __init__(self):
        super().__init__(regularised())

    def training_step(self, batch, batch_idx):
        self.net.train()
        loss = super().training_step(batch, batch_idx)
        self.net.eval()
        return loss + 0.0 * self.net(batch[0]).square().mean()


class Perceptual(Classification):
    """A large network that is in no optimizer measures the loss, and is not frozen."""

    def __init__(self):
        super().__init__(stack(nn.ReLU, 1))
        self.measure = stack(nn.ReLU, 2, width=64)
        self.measure[0] = nn.Linear(10, 64)

    def training_step(self, batch, batch_idx):
        x, y = batch
        scores = self.net(x)
        target = self.measure(F.one_hot(y, 10).float()).detach()
        return F.cross_entropy(scores, y) + 0.1 * F.mse_loss(self.measure(scores.softmax(-1)), target)

    def configure_optimizers(self):
        return torch.optim.SGD(self.net.parameters(), lr=0.1)


class Scheduled(Classification):
    def __init__(self, make: Any, interval: str, lr: float = 0.1):
        super().__init__(stack(nn.ReLU, 2), lr)
        self.make_schedule, self.interval = make, interval

    def configure_optimizers(self):
        optimizer = super().configure_optimizers()
        return [optimizer], [{"scheduler": self.make_schedule(optimizer), "interval": self.interval}]


class ByHandScheduled(ByHand):
    """Steps its schedule itself, each step, whatever Lightning was told."""

    def training_step(self, batch, batch_idx):
        super().training_step(batch, batch_idx)
        self.lr_schedulers().step()

    def configure_optimizers(self):
        optimizer = super().configure_optimizers()
        return [optimizer], [CosineAnnealingLR(optimizer, T_max=STEPS)]


def linear_with_warmup(optimizer: Any, warmup: int, total: int) -> LambdaLR:
    def factor(step: int) -> float:
        return step / warmup if step < warmup else max(0.0, (total - step) / (total - warmup))

    return LambdaLR(optimizer, factor)


def partly(step: int, *, total: int) -> float:
    return max(0.0, 1 - step / total)


class NotTaken(Classification):
    """An optimizer step that computes gradients and takes no step."""

    def optimizer_step(self, epoch, batch_idx, optimizer, optimizer_closure):
        rates = [group["lr"] for group in optimizer.param_groups]
        for group in optimizer.param_groups:
            group["lr"] = 1e-30
        optimizer.step(closure=optimizer_closure)
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate


class SoftmaxOverOne(Classification):
    def __init__(self):
        super().__init__(nn.Sequential(nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 1)))

    def training_step(self, batch, batch_idx):
        x, y = batch
        return F.mse_loss(self.net(x).softmax(-1)[:, 0], y.float())

    validation_step = None


class Sigmoid(SoftmaxOverOne):
    def training_step(self, batch, batch_idx):
        x, y = batch
        return F.binary_cross_entropy_with_logits(self.net(x)[:, 0], (y > 4).float())


class Satisfied(SoftmaxOverOne):
    """A hinge that all samples meet: the loss is zero, and so are all gradients."""

    def training_step(self, batch, batch_idx):
        x, _ = batch
        return F.relu(self.net(x) * 1e-3 - 10).mean()


def searching_scale() -> dict[str, Any]:
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**120, growth_interval=1000)
    return {"plugins": [MixedPrecision("16-mixed", "cpu", scaler)]}


def net() -> nn.Sequential:
    return stack(nn.ReLU, 2)


# By the kind and layer that is found: what is wrong, and the same put right.
SICK: dict[str, tuple[tuple[str, str], Any, Any, dict[str, Any]]] = {
    "zero_grad overridden": (
        ("gradients_not_cleared", ""),
        lambda: NeverCleared(net()),
        lambda: Classification(net()),
        {},
    ),
    "zero_grad overridden, accumulating and clipping": (
        ("gradients_not_cleared", ""),
        lambda: NeverCleared(net()),
        lambda: Classification(net()),
        {"accumulate_grad_batches": 3, "gradient_clip_val": 1.0},
    ),
    "by hand": (("gradients_not_cleared", ""), lambda: ByHand(net(), clear=False), lambda: ByHand(net()), {}),
    "by hand, clipped": (
        ("gradients_not_cleared", ""),
        lambda: ByHand(net(), clear=False, max_norm=1.0),
        lambda: ByHand(net(), max_norm=1.0),
        {},
    ),
    "by hand, every four": (
        ("gradients_not_cleared", ""),
        lambda: ByHand(net(), 4, clear=False),
        lambda: ByHand(net(), 4),
        {},
    ),
    "a critic's never cleared": (
        ("gradients_not_cleared", "critic"),
        lambda: InTurns(toggles=False, clears_critic=False),
        lambda: InTurns(toggles=False),
        {},
    ),
    "network in evaluation mode": (
        ("evaluation_mode", "net"),
        lambda: Evaluating(regularised(), "net"),
        lambda: Evaluating(regularised()),
        {},
    ),
    "all in evaluation mode": (
        ("evaluation_mode", ""),
        lambda: Evaluating(regularised(), ""),
        lambda: Classification(regularised()),
        {},
    ),
    "a layer in no optimizer": (
        ("not_optimized", "net.2"),
        lambda: Given(net(), "net.2"),
        lambda: Given(net(), "-"),
        {},
    ),
    "a network made anew": (("not_optimized", ""), lambda: Replaced(net()), lambda: Classification(net()), {}),
    "learning rate 0": (
        ("learning_rate_too_low", ""),
        lambda: Classification(net(), lr=0.0),
        lambda: Classification(net()),
        {},
    ),
    "steps that change nothing": (("lost_updates", ""), lambda: NotTaken(net()), lambda: Classification(net()), {}),
    "updates lost in bfloat16": (
        ("lost_updates", ""),
        lambda: Classification(net(), lr=3e-5, optimizer=torch.optim.AdamW),
        lambda: Classification(net(), lr=1e-2, optimizer=torch.optim.AdamW),
        {"precision": "bf16-true"},
    ),
    "softmax over one unit": (("no_gradient", ""), SoftmaxOverOne, Sigmoid, {}),
    "OneCycleLR of steps each epoch": (
        ("schedule_interval", ""),
        lambda: Scheduled(partial(OneCycleLR, max_lr=0.1, total_steps=STEPS), "epoch"),
        lambda: Scheduled(partial(OneCycleLR, max_lr=0.1, total_steps=STEPS), "step"),
        {},
    ),
    "CosineAnnealingLR of epochs each step": (
        ("schedule_interval", ""),
        lambda: Scheduled(partial(CosineAnnealingLR, T_max=3), "step"),
        lambda: Scheduled(partial(CosineAnnealingLR, T_max=3), "epoch"),
        {},
    ),
    "CosineAnnealingLR of batches": (
        ("schedule_interval", ""),
        lambda: Scheduled(partial(CosineAnnealingLR, T_max=60), "step"),
        lambda: Scheduled(partial(CosineAnnealingLR, T_max=15), "step"),
        {"accumulate_grad_batches": 4, "steps": 15},
    ),
    "a function of the run's steps each epoch": (
        ("schedule_interval", ""),
        lambda: Scheduled(partial(linear_with_warmup, warmup=5, total=STEPS), "epoch"),
        lambda: Scheduled(partial(linear_with_warmup, warmup=5, total=STEPS), "step"),
        {},
    ),
    "a partial of the run's steps each epoch": (
        ("schedule_interval", ""),
        lambda: Scheduled(partial(LambdaLR, lr_lambda=partial(partly, total=STEPS)), "epoch"),
        lambda: Scheduled(partial(LambdaLR, lr_lambda=partial(partly, total=STEPS)), "step"),
        {},
    ),
    "warm-up and cosine each epoch": (
        ("schedule_interval", ""),
        lambda: Scheduled(lambda o: _one_after_another(o), "epoch"),
        lambda: Scheduled(lambda o: _one_after_another(o), "step"),
        {},
    ),
    "a first epoch at rate 0": (
        ("schedule_interval", ""),
        lambda: Scheduled(partial(LambdaLR, lr_lambda=lambda step: min(1.0, step / 10)), "epoch"),
        lambda: Scheduled(partial(LambdaLR, lr_lambda=lambda step: min(1.0, step / 10)), "step"),
        {},
    ),
}


def _one_after_another(optimizer: Any) -> SequentialLR:
    parts: list[Any] = [LinearLR(optimizer, 0.1, total_iters=5), CosineAnnealingLR(optimizer, STEPS - 5)]
    return SequentialLR(optimizer, parts, [5])


HEALTHY: dict[str, tuple[Any, dict[str, Any]]] = {
    "accumulation with a tail": (lambda: Classification(net()), {"accumulate_grad_batches": 3}),
    "by hand with zeros": (lambda: ByHand(net(), set_to_none=False), {}),
    "by hand every three": (lambda: ByHand(net(), 3), {}),
    "two optimizers that leave gradients in one another": (lambda: InTurns(toggles=False), {}),
    "two optimizers toggled": (lambda: InTurns(toggles=True), {}),
    "a backward pass of torch's own": (lambda: Unseen(toggles=False), {}),
    "LBFGS": (lambda: Classification(net(), lr=0.5, optimizer=partial(torch.optim.LBFGS, max_iter=3)), {}),
    "frozen backbone in evaluation mode": (backbone, {}),
    "frozen statistics": (lambda: Evaluating(regularised(), "net.1"), {}),
    "nothing that depends on the mode": (lambda: Evaluating(net(), "net"), {}),
    "evaluation for a moment": (LookAhead, {}),
    "a head on a backbone left out": (lambda: Given(net(), "net.0", "net.2"), {}),
    "low rank": (low_rank, {}),
    "a teacher": (Teacher, {}),
    "a network that measures the loss": (Perceptual, {}),
    "the scale of fp16 is searched": (lambda: Classification(net()), searching_scale()),
    "a schedule for a longer run": (lambda: Scheduled(partial(CosineAnnealingLR, T_max=200), "epoch"), {}),
    "a cycle in steps": (lambda: Scheduled(partial(CosineAnnealingLR, T_max=10), "step"), {}),
    "a schedule of its own": (lambda: ByHandScheduled(net()), {}),
    "a plateau": (
        lambda: Scheduled(partial(lr_scheduler.ExponentialLR, gamma=0.9), "epoch"),
        {},
    ),
    "nothing left to learn": (Satisfied, {}),
    "bfloat16 that has learned": (
        lambda: Classification(net(), lr=1e-3, optimizer=torch.optim.AdamW),
        {"precision": "bf16-true", "steps": 200},
    ),
}


def look(module: Classification, *, steps: int = STEPS, **settings: Any) -> PathologyDetector:
    """Watch a run of it, and return the detector."""
    return watch(module, steps=steps, enable_progress_bar=False, enable_model_summary=False, **settings)


class NoisyRank(Classification):
    """One rank adds to its weights what no other adds."""

    def on_train_batch_end(self, *_: Any):
        if self.global_rank == 1:
            with torch.no_grad():
                self.net[2].weight.add_(1e-3 * torch.randn_like(self.net[2].weight))


class NeverAveraged(ByHand):
    """Its backward passes are torch's own, outside of what averages gradients."""

    def training_step(self, batch, batch_idx):
        x, y = batch
        optimizer = self.optimizers()
        optimizer.zero_grad()
        with self.trainer.model.no_sync():
            self.manual_backward(F.cross_entropy(self.net(x), y))
        optimizer.step()


def two_processes() -> dict[str, Any]:
    """Findings at warning or above of both ranks' runs."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    made = {
        "noisy": lambda: NoisyRank(net()),
        "never averaged": lambda: NeverAveraged(net()),
        "healthy": lambda: Classification(regularised(), lr=1e-3, optimizer=torch.optim.Adam),
    }
    found = {}
    for name, make in made.items():
        torch.manual_seed(0)
        detector = look(make(), data=digits(BATCH // 2), steps=9, devices=2, strategy=DDPStrategy())
        found[name] = [each.as_dict() for each in detector.findings if each.severity >= "warning"]
    return found
