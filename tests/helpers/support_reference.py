"""The oracle of the support matrix: a training loop in plain torch, float64, one process, and what it would measure."""

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from lightning_gradtools.schedules import WarmupCosine

Batch = tuple[Tensor, Tensor]
Gradients = dict[str, Tensor]
MicroBatch = list[Batch]  # the shares of the ranks that have different batches


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run trains on.

    Attributes:
        windows: the micro-batches of each optimizer step.
        divisors: what the loss of each window's micro-batches is divided by.
        optimizer: makes it from parameters.
        ends: numbers of the last step of each epoch.
        scaler: whether a loss scaler skips steps whose gradients are not finite.
        rates: the learning rate of each step and that after it, where they are another's; or None.
    """

    windows: list[list[MicroBatch]]
    divisors: list[int]
    optimizer: Callable[..., torch.optim.Optimizer]
    ends: Sequence[int] = ()
    scaler: bool = False
    rates: Sequence[tuple[float, float]] | None = None

    @property
    def probe(self) -> MicroBatch:
        """The first micro-batch of the run."""
        return self.windows[0][0]


@dataclass(kw_only=True)
class Step:
    """One step of the reference, in float64, by parameter name.

    Attributes:
        number: from 0.
        lr: with which it was made.
        loss: mean over its micro-batches.
        before: weights before it.
        gradients: before clipping.
        clipped: what the optimizer used.
        after: weights after it.
        small: squared norms of the gradients of each share of each micro-batch by itself.
        sizes: samples of each share of each micro-batch.
        skipped: whether it was not taken.
        tells_noise: whether it has several shares, all of one size, and none is missing.
    """

    number: int
    lr: float = 0.0
    loss: float = 0.0
    before: Gradients = field(default_factory=dict)
    gradients: Gradients = field(default_factory=dict)
    clipped: Gradients = field(default_factory=dict)
    after: Gradients = field(default_factory=dict)
    small: list[float] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    skipped: bool = False
    tells_noise: bool = False


class Holder(nn.Module):
    """Networks under their names; called, it adds up what they return; the uncalled have no part in that."""

    def __init__(self, networks: Mapping[str, nn.Module], **uncalled: nn.Module) -> None:
        super().__init__()
        self._names = [*networks]
        for name, network in {**networks, **uncalled}.items():
            self.add_module(name, network)

    def forward(self, x: Tensor) -> Tensor:
        return sum(getattr(self, name)(x) for name in self._names)


def norm(tensors: Mapping[str, Tensor], p: float = 2.0) -> float:
    flat = torch.cat([each.reshape(-1).abs() for each in tensors.values()])
    return float(flat.max() if p == math.inf else flat.pow(p).sum().pow(1 / p))


def share_loss(net: nn.Module, batch: Batch) -> Tensor:
    x, y = (part.double() for part in batch)
    return (net(x) - y).square().mean()


def loss_of(net: nn.Module, micro: MicroBatch) -> Tensor:
    return torch.stack([share_loss(net, share) for share in micro]).mean()


def run(net: nn.Module, plan: Plan, callback: str, arguments: Mapping[str, Any], index: int = 0) -> list[Step]:
    """Train a float64 copy of ``net`` as ``plan`` says, with what ``callback`` would do to the run."""
    net = copy.deepcopy(net).double()
    named = dict(net.named_parameters())
    optimizer = plan.optimizer(net.parameters())
    base = optimizer.param_groups[0]["lr"]
    clip = clipping(arguments, index) if callback == "GradientClipping" else None
    steps = []
    real = 0
    for number, (window, divisor) in enumerate(zip(plan.windows, plan.divisors, strict=True)):
        lr = (
            base * factor(callback, arguments, real, len(plan.windows)) if plan.rates is None else plan.rates[number][0]
        )
        optimizer.param_groups[0]["lr"] = lr
        step = Step(number=number, lr=lr, before=_copied(named))
        optimizer.step(partial(_closure, net, named, optimizer, window, divisor, clip, plan.scaler, arguments, step))
        step.after = _copied(named)
        steps.append(step)
        real += not step.skipped
    return steps


def _closure(
    net: nn.Module,
    named: dict[str, nn.Parameter],
    optimizer: torch.optim.Optimizer,
    window: list[MicroBatch],
    divisor: int,
    clip: Any,
    scaler: bool,
    arguments: Mapping[str, Any],
    step: Step,
) -> float:
    step.small, step.sizes, losses = [], [], []
    for micro in window:
        for share in micro:
            optimizer.zero_grad()
            share_loss(net, share).backward()
            step.small.append(norm(_gradients(named)) ** 2)
            step.sizes.append(len(share[0]))
    step.tells_noise = len(step.sizes) > 1 and len({*step.sizes}) == 1 and len(window) == divisor
    optimizer.zero_grad()
    for micro in window:
        loss = loss_of(net, micro)
        losses.append(float(loss.detach()))
        (loss / divisor).backward()
    step.loss = sum(losses) / len(losses)
    step.gradients = _gradients(named)
    action = arguments.get("on_nonfinite", "skip")
    finite = all(bool(each.isfinite().all()) for each in step.gradients.values())
    if (clip is not None or scaler) and not finite:
        step.skipped = True
        for parameter in named.values():
            if action == "skip" or scaler:
                parameter.grad = None
            elif parameter.grad is not None:
                parameter.grad.zero_()
    elif clip is not None:
        for name, gradient in clip(step.before, step.gradients).items():
            named[name].grad = gradient
    step.clipped = _gradients(named)
    return losses[-1]


def _gradients(named: Mapping[str, nn.Parameter]) -> Gradients:
    return {name: each.grad.clone() for name, each in named.items() if each.grad is not None}


def _copied(named: Mapping[str, Tensor]) -> Gradients:
    return {name: each.detach().clone() for name, each in named.items()}


def factor(callback: str, arguments: Mapping[str, Any], step: int, total: int) -> float:
    """Return what the base learning rate is multiplied by at a step."""
    if callback == "WarmupCosineSchedule":
        return WarmupCosine(total_steps=total, warmup_steps=arguments["warmup_steps"]).factor(step)
    if callback == "TorchLRScheduler":
        return float(arguments["gamma"] ** (step // arguments["step_size"]))
    return 1.0


def clipping(arguments: Mapping[str, Any], index: int) -> Callable[[Gradients, Gradients], Gradients]:
    """Return what clips gradients, given weights and gradients, as ``GradientClipping(**arguments)`` does."""
    history: list[float] = []
    p = float(arguments.get("norm_type", 2))

    def scaled(gradients: Gradients, limit: float) -> Gradients:
        total = norm(gradients, p)
        return {name: each * min(1.0, limit / total) for name, each in gradients.items()}

    def clip(weights: Gradients, gradients: Gradients) -> Gradients:
        if "clip_value" in arguments:
            bound = arguments["clip_value"]
            return {name: each.clamp(-bound, bound) for name, each in gradients.items()}
        if "adaptive" in arguments:
            return {name: _by_unit(weights[name], each, arguments["adaptive"]) for name, each in gradients.items()}
        if "exclude" in arguments:
            counted = {name: each for name, each in gradients.items() if arguments["exclude"] not in name}
            return scaled(counted, arguments["max_norm"])
        cap = arguments.get("max_norm", math.inf)
        limit = arguments.get("overrides", {}).get(f"{index}/0", cap)
        total = norm(gradients, p)
        if "percentile" in arguments:
            history.append(total)
            limit = math.inf
            if len(history) >= arguments["warmup_steps"]:
                limit = float(np.percentile(history[-arguments["window"] :], arguments["percentile"]))
        if "zscore" in arguments:
            limit = math.inf
            if len(history) >= arguments["warmup_steps"]:
                median = float(np.median(history))
                deviation = 1.4826 * float(np.median(np.abs(np.array(history) - median)))
                limit = median + arguments["zscore"] * max(deviation, 0.01 * median)
            history.append(total)
        return scaled(gradients, min(limit, cap))

    return clip


def _by_unit(weight: Tensor, gradient: Tensor, ratio: float) -> Tensor:
    if weight.ndim <= 1:
        bound, size = ratio * weight.norm().clamp(min=1e-3), gradient.norm()
    else:
        bound = ratio * weight.flatten(1).norm(dim=1, keepdim=True).clamp(min=1e-3)
        size = gradient.flatten(1).norm(dim=1, keepdim=True)
    return gradient * torch.where(size > bound, bound / size, torch.ones_like(size))


Series = dict[int, dict[str, float]]


def monitored(steps: Sequence[Step], arguments: Mapping[str, Any], *, clipped: bool = False) -> Series:
    """Return what a ``GradientMonitor`` with these arguments logs."""
    p = float(arguments.get("norm_type", 2))
    by_module = arguments.get("group_by") == "module"
    found: Series = {}
    signal = trace = weight = 0.0
    for before, step in zip([None, *steps], steps, strict=False):
        values = found[step.number] = {}
        values.update(_norms("grad_norm/", step.gradients, p, by_module))
        if clipped:
            values["grad_norm_clipped/total"] = norm(step.clipped, p)
        weights = {name: step.before[name] for name in step.gradients}
        if arguments.get("weight_norm"):
            values.update(_norms("weight_norm/", weights, p, by_module))
        if arguments.get("update_ratio"):
            changes = {name: step.after[name] - step.before[name] for name in step.gradients}
            for (key, change), size in zip(
                _norms("update_ratio/", changes, p, by_module).items(),
                _norms("", weights, p, by_module).values(),
                strict=True,
            ):
                values[key] = change / size
        if arguments.get("cosine") and before is not None:
            for name in step.gradients:
                values[f"grad_cosine/{name}"] = _cosine({name: before.gradients[name]}, {name: step.gradients[name]})
            values["grad_cosine/total"] = _cosine(before.gradients, step.gradients)
        if arguments.get("histograms"):
            for name, gradient in step.gradients.items():
                key = f"grad_histogram/{name}"
                values[f"{key}/count"] = float(gradient.numel())
                values[f"{key}/sum"] = float(gradient.sum())
                values[f"{key}/squares"] = float(gradient.square().sum())
        if arguments.get("noise_scale") and step.tells_noise:
            few, many = step.sizes[0], sum(step.sizes)
            small, big = sum(step.small) / len(step.small), norm(step.gradients) ** 2
            signal = 0.95 * signal + 0.05 * (many * big - few * small) / (many - few)
            trace = 0.95 * trace + 0.05 * (small - big) / (1 / few - 1 / many)
            weight = 0.95 * weight + 0.05
            values["grad_noise/signal"], values["grad_noise/trace"] = signal / weight, trace / weight
            if signal > 0 and trace > 0:
                values["grad_noise/scale"] = trace / signal
    return found


def _norms(prefix: str, tensors: Mapping[str, Tensor], p: float, by_module: bool) -> dict[str, float]:
    groups: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        groups.setdefault(name.rpartition(".")[0] if by_module else name, {})[name] = tensor
    return {
        f"{prefix}total": norm(tensors, p),
        **{f"{prefix}{name}": norm(each, p) for name, each in groups.items()},
    }


def _cosine(first: Gradients, second: Gradients) -> float:
    one, other = (torch.cat([each.reshape(-1) for each in grads.values()]) for grads in (first, second))
    return float(one @ other / (one.norm() * other.norm()))


def sampled(steps: int) -> list[int]:
    """Return the steps that a detector samples with ``every_n_steps=2``, of so many."""
    return [step for step in range(steps) if step % 2 == 0 or step == 1]


def detected(steps: Sequence[Step]) -> Series:
    """Return losses, norms of layers at the sampled steps and numbers of units, as a ``PathologyDetector`` has them."""
    samples = sampled(len(steps))
    found: Series = {step.number: {"loss": step.loss} for step in steps if step.number <= samples[-1]}
    for step in steps:
        if step.number not in samples:
            continue
        values = found[step.number]
        for layer in {name.rpartition(".")[0]: None for name in step.gradients}:
            own = [name for name in step.gradients if name.rpartition(".")[0] == layer]
            values[f"layer/{layer}/gradient"] = norm({name: step.gradients[name] for name in own})
            values[f"layer/{layer}/weight"] = norm({name: step.before[name] for name in own})
            values[f"layer/{layer}/update"] = norm({name: step.after[name] - step.before[name] for name in own})
        for layer in [name for name in values if name.endswith("gradient")][:-1]:
            place, _, index = layer.split("/")[1].rpartition(".")
            activation = f"{place}.{int(index) + 1}"
            values[f"units/{activation}/units"] = 8.0
            values[f"units/{activation}/saturated"] = float(index == "0")  # one never leaves its flat side
    return found


def curvature(net: nn.Module, plan: Plan, steps: Sequence[Step], arguments: Mapping[str, Any]) -> Series:
    """Return what a ``HessianSpectrum`` finds, by dense eigenvalues."""
    net = copy.deepcopy(net).double()
    micro_batches = [micro for window in plan.windows for micro in window]
    found: Series = {}
    for step in steps:
        ends = step.number in plan.ends if "every_n_epochs" in arguments else False
        if not ends and (step.number + 1) % arguments.get("every_n_steps", 10**9):
            continue
        names = list(step.gradients)
        sizes = [step.after[name].numel() for name in names]

        def loss(flat: Tensor, step: Step = step, names: list[str] = names, sizes: list[int] = sizes) -> Tensor:
            parts = {name: part.view_as(step.after[name]) for name, part in zip(names, flat.split(sizes), strict=True)}
            losses = [
                (functional_call(net, {**step.after, **parts}, (x.double(),)) - y.double()).square().mean()
                for micro in micro_batches[: arguments.get("num_batches", 1)]
                for x, y in micro
            ]
            return torch.stack(losses).mean()

        flat = torch.cat([step.after[name].reshape(-1) for name in names])
        hessian = torch.autograd.functional.hessian(loss, flat)
        values = torch.linalg.eigvalsh(hessian)
        order = (values if arguments.get("which") == "algebraic" else values.abs()).argsort(descending=True)
        entry = found[step.number + ends] = {
            f"curvature/eigenvalue_{i}": float(values[order[i]]) for i in range(arguments["top_k"])
        }
        entry["curvature/sharpness"] = float(values.max())
        momentum = _momentum(plan)
        if momentum is not None:
            lr = step.lr if plan.rates is None else plan.rates[step.number][1]
            entry["curvature/sharpness_times_lr"] = float(values.max()) * lr
            entry["curvature/stability"] = float(values.max()) * lr / (2 + 2 * momentum)
        entry["curvature/probe_loss"] = float(loss(flat).detach())
        if "trace" in arguments:
            entry["curvature/trace"] = float(hessian.trace())
        if "density" in arguments:
            entry["curvature/negative_share"] = 1.0  # stands for a number from 0 to 1
        start = 0
        blocks: dict[str, list[int]] = {}
        for name, size in zip(names, sizes, strict=True):
            blocks.setdefault(name.rpartition(".")[0], []).extend(range(start, start + size))
            start += size
        for layer, rows in blocks.items():
            block = torch.linalg.eigvalsh(hessian[rows][:, rows])
            entry[f"curvature/top_eigenvalue/{layer}"] = float(block[block.abs().argmax()])
        for name in step.after.keys() - step.gradients.keys():
            entry[f"curvature/top_eigenvalue/{name.rpartition('.')[0]}"] = 0.0
    return found


def _momentum(plan: Plan) -> float | None:
    groups = plan.optimizer([torch.zeros(1, requires_grad=True)]).param_groups[0]
    return groups.get("momentum")


def rates(steps: Sequence[Step]) -> Series:
    return {step.number: {"lr": step.lr} for step in steps}


def losses_while_rates_grow(net: nn.Module, plan: Plan, rates: Sequence[float]) -> Series:
    """Return the smoothed losses of a range test, which goes through the windows again and again."""
    lengthened = replace(
        plan,
        windows=[plan.windows[i % len(plan.windows)] for i in range(len(rates))],
        divisors=[plan.divisors[i % len(plan.windows)] for i in range(len(rates))],
        rates=[(rate, rate) for rate in rates],
    )
    found: Series = {}
    average = 0.0
    for step in run(net, lengthened, "lr_range_test", {}):
        average = 0.98 * average + 0.02 * step.loss
        found[step.number] = {"loss": average / (1 - 0.98 ** (step.number + 1))}
    return found
