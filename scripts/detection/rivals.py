"""The rules that others publish, on what they look at, computed cheaply while a run is recorded.

Definitions are those of the projects' sources and papers. Where they leave something open, or need what a run here
does not have, the reading is stated. Each rule speaks once for each layer. Gradients and losses are seen at each
step; weights and activations on the batch of each of the first ten steps and of every tenth (`Sample`). Activations
are seen whether a module or a function computes them, which the originals do not manage.

SageMaker Debugger    vanishing: mean |g| < 1e-7. exploding: NaN or Inf. dead: units active in < 1 % of values, > 50
                      % of a layer's. saturated: inputs beyond ±9.5 (tanh), below -23 or above 17 (sigmoid), 50 % of
                      a layer's. update: mean |Δw| / mean |w| > 10 (exploding) or < 1e-8 (stalled). stalled: the
                      loss does not fall by 0.1 % over 10 steps. poor: in the first 10 steps, the variances of
                      weight matrices differ by > 10, or a gradient's 95th and 5th percentiles by < 1e-3.
AutoTrainer           once not converging (best accuracy < 0.7, or no gain in the last 30 % of the run): vanishing:
                      norm of the first layer's gradient < 1e-4 and < 1e-3 of the last's; exploding: > 70 of it;
                      dead: >= 70 % of a gradient's entries exactly 0. Always: NaN; oscillation: accuracy turns by
                      >= 0.03 in >= 0.2 of epochs; stalled: no gain >= 0.01 below 0.7. Accuracy of the training set
                      at each measurement from 30 % of the run on; of a regression, R²; runs without either are
                      judged for NaN alone.
DeepDiagnosis         vanishing: mean |g| < 1e-7. exploding: NaN, Inf or 0 as a gradient's mean. dead: >= 70 % of a
                      ReLU layer's values <= 0. saturated: > 50 % of inputs beyond ±5. update: lr ‖g‖ / ‖w‖ > 0.1
                      (exploding) or < 1e-5 (stalled). poor: variance of initial weight matrices outside 1e-5 … 10.
TheDeepChecker        vanishing: mean |g| < 1e-6, or at most half of the last four times running. exploding: > 1e6,
                      or at least twice. dead: 95th percentile of |a| < 1e-5 in 10 batches for > 50 % of units.
                      saturated: mean |a| of the range (its ρ_B with fine bins) > 0.85 for > 50 % of units. update:
                      log10 of mean |Δw| / mean |w| above -1 (exploding) or below -4 (stalled). oscillating: less
                      than half of the moves of the loss go on in the direction of the one before, over 50. stalled:
                      four falls of < 5 % running. Both on means of 10 steps. poor: deviation of the first
                      activations outside 0.5 … 2.
SpikeDetection        Lightning's: a loss that is not finite, or above the last one and at least three times the
                      mean of the last ten that were no spikes.
"""

import copy
import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from detection.capture import activations, by_unit
from detection.experiment import Experiment
from detection.measurement import Measurement

DEBUGGER, AUTO, DIAGNOSIS, CHECKER, SPIKE = (
    "SageMaker Debugger",
    "AutoTrainer",
    "DeepDiagnosis",
    "TheDeepChecker",
    "SpikeDetection",
)
NAMES = (DEBUGGER, AUTO, DIAGNOSIS, CHECKER, SPIKE)
AT_MOST = 6  # layers that a rule names


@dataclass(frozen=True)
class Sample:
    """What a rule may know of one activation in one batch; (samples, units) each."""

    path: str
    kind: str
    inputs: Tensor
    outputs: Tensor


class Rivals:
    """Applies all rules as a run goes on.

    Args:
        steps: how many the run will take.
    """

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self._found: dict[str, dict[tuple[str, str], int]] = {name: {} for name in NAMES}
        self._weights: dict[str, Tensor] = {}
        self._means: deque[dict[str, float]] = deque(maxlen=5)
        self._quiet: dict[str, deque[Tensor]] = {}
        self._losses: list[float] = []
        self._calm: deque[float] = deque(maxlen=10)
        self._accuracies: list[tuple[int, float]] = []

    def findings(self) -> dict[str, list[dict[str, Any]]]:
        """Return what each rival said: kind, layer and step."""
        return {
            rival: [{"kind": kind, "layer": layer, "step": step} for (kind, layer), step in said.items()]
            for rival, said in self._found.items()
        }

    def start(self, module: Experiment, measurement: Measurement) -> None:
        """Look at the network before the first step."""
        self._weights = {name: p.detach().clone() for name, p in module.named_parameters()}
        for name, weight in self._weights.items():
            if weight.ndim > 1 and not 1e-5 <= float(weight.var()) <= 10:
                self._say(DIAGNOSIS, "poor_initialization", name, 0)

    def step(
        self,
        module: Experiment,
        step: int,
        loss: float,
        gradients: Mapping[str, Tensor],
        batch: tuple[Tensor, Tensor],
        measurement: Measurement | None,
    ) -> None:
        """Judge one optimizer step, after it."""
        self._judge_loss(loss, step)
        self._judge_gradients(gradients, step)
        if step <= 10 or step % 10 == 0:
            rate = module.trainer.optimizers[0].param_groups[0]["lr"]
            self._judge_updates(module, gradients, rate, step)
            self._judge_activations(self._sample(module, batch), step)
        self._weights = {name: p.detach().clone() for name, p in module.named_parameters()}
        if measurement is not None:
            self._judge_accuracy(measurement, gradients, loss, step)

    def _say(self, rival: str, kind: str, name: str, step: int) -> None:
        """Note it, for the layer that a parameter belongs to."""
        layer = name.rpartition(".")[0] if name.rpartition(".")[2].startswith(("weight", "bias")) else name
        said = self._found[rival]
        if sum(known == kind for known, _ in said) < AT_MOST:
            said.setdefault((kind, layer), step)

    def _judge_loss(self, loss: float, step: int) -> None:
        self._judge_spike(loss, step)
        self._losses.append(loss)
        if len(self._losses) % 10:
            return
        if len(self._losses) > 10 and not self._losses[-1] < self._losses[-11] * (1 - 1e-3):
            self._say(DEBUGGER, "stalled_training", "", step)
        means = [sum(self._losses[i : i + 10]) / 10 for i in range(0, len(self._losses), 10)][-50:]
        falls = [(before - after) / before if before else 0.0 for before, after in pairwise(means)]
        if len(falls) >= 4 and all(fall < 0.05 for fall in falls[-4:]):
            self._say(CHECKER, "stalled_training", "", step)
        turns = [a * b < 0 for a, b in pairwise(falls)]
        if len(turns) >= 4 and 1 - sum(turns) / len(turns) < 0.5:
            self._say(CHECKER, "oscillating_loss", "", step)

    def _judge_spike(self, loss: float, step: int) -> None:
        mean = sum(self._calm) / len(self._calm) if self._calm else loss
        worse = loss >= self._calm[-1] if self._calm else False
        if not math.isfinite(loss) or (worse and abs(loss - mean) >= 2 * abs(mean)):
            self._say(SPIKE, "exploding_gradient", "", step)
        else:
            self._calm.append(loss)

    def _judge_gradients(self, gradients: Mapping[str, Tensor], step: int) -> None:
        if not gradients:
            return
        sums = torch.stack(torch._foreach_norm(list(gradients.values()), 1)).tolist()
        means = {name: total / g.numel() for (name, g), total in zip(gradients.items(), sums, strict=True)}
        self._means.append(means)
        for name, mean in means.items():
            if not math.isfinite(mean):
                self._say(DEBUGGER, "exploding_gradient", name, step)
                self._say(DIAGNOSIS, "exploding_gradient", name, step)
                self._say(CHECKER, "exploding_gradient", name, step)
                continue
            if mean < 1e-7:
                self._say(DEBUGGER, "vanishing_gradient", name, step)
                self._say(DIAGNOSIS, "exploding_gradient" if mean == 0 else "vanishing_gradient", name, step)
            past = [each[name] for each in self._means if name in each]
            pairs = list(pairwise(past))
            whole = len(pairs) >= 4
            if mean < 1e-6 or (whole and all(after <= 0.5 * before for before, after in pairs)):
                self._say(CHECKER, "vanishing_gradient", name, step)
            if mean > 1e6 or (whole and all(after >= 2 * before > 0 for before, after in pairs)):
                self._say(CHECKER, "exploding_gradient", name, step)

    def _judge_updates(self, module: Experiment, gradients: Mapping[str, Tensor], rate: float, step: int) -> None:
        variances = []
        for name, parameter in module.named_parameters():
            weight, before = parameter.detach(), self._weights[name]
            if not parameter.requires_grad or name not in gradients:
                continue
            size = float(before.abs().mean())
            if size > 0:
                ratio = float((weight - before).abs().mean()) / size
                if ratio > 10 or ratio < 1e-8:
                    self._say(DEBUGGER, "exploding_gradient" if ratio > 10 else "stalled_training", name, step)
                if not 1e-4 <= ratio <= 1e-1:
                    self._say(CHECKER, "exploding_gradient" if ratio > 1e-1 else "stalled_training", name, step)
                relative = rate * float(gradients[name].norm()) / float(before.norm())
                if not 1e-5 <= relative <= 1e-1:
                    self._say(DIAGNOSIS, "exploding_gradient" if relative > 1e-1 else "stalled_training", name, step)
            if step <= 10:
                flat = gradients[name].flatten().float()
                if len(flat) > 1 and bool(flat.isfinite().all()):
                    low, high = torch.quantile(flat, torch.tensor([0.05, 0.95])).tolist()
                    if high - low < 1e-3:
                        self._say(DEBUGGER, "poor_initialization", name, step)
                if weight.ndim > 1:
                    variances.append(float(weight.var()))
        if variances and not max(variances) <= 10 * min(variances):
            self._say(DEBUGGER, "poor_initialization", "", step)

    def _sample(self, module: Experiment, batch: tuple[Tensor, Tensor]) -> list[Sample]:
        net = copy.deepcopy(module.net)
        with torch.random.fork_rng(devices=[]), torch.no_grad(), activations(net) as seen:
            module.measured(net, *batch)
        samples: list[Sample] = []
        for path, calls in seen.found.items():
            for kind in dict.fromkeys(kind for kind, _, _ in calls):
                same = [(i, o) for k, i, o in calls if k == kind]
                inputs, outputs = (
                    (torch.cat([by_unit(pair[side]) for pair in same]) for side in (0, 1))
                    if (len({pair[0].shape[-1] for pair in same}) == 1)
                    else (by_unit(same[-1][0]), by_unit(same[-1][1]))
                )
                samples.append(Sample(path, kind, inputs.float(), outputs.float()))
        return samples

    def _judge_activations(self, samples: list[Sample], step: int) -> None:
        for each in samples:
            if each.kind == "softmax":
                continue
            if step == 1 and not 0.5 <= float(each.outputs.std()) <= 2:
                self._say(CHECKER, "poor_initialization", each.path, 0)
            if each.kind == "relu":
                active = (each.outputs > 0).float().mean(dim=0)
                if float((active < 0.01).float().mean()) > 0.5:
                    self._say(DEBUGGER, "dead_relu", each.path, step)
                if float((each.outputs <= 0).float().mean()) >= 0.7:
                    self._say(DIAGNOSIS, "dead_relu", each.path, step)
            if each.kind in ("relu", "other"):
                quiet = self._quiet.setdefault(each.path, deque(maxlen=10))
                quiet.append(torch.quantile(each.outputs[:4096].abs(), 0.95, dim=0) < 1e-5)
                if len(quiet) == 10 and float(torch.stack(list(quiet)).all(dim=0).float().mean()) > 0.5:
                    self._say(CHECKER, "dead_relu", each.path, step)
            if each.kind in ("tanh", "sigmoid"):
                beyond = each.inputs.abs() > 9.5 if each.kind == "tanh" else (each.inputs < -23) | (each.inputs > 17)
                if float(beyond.float().mean()) >= 0.5:
                    self._say(DEBUGGER, "saturated_activation", each.path, step)
                if float((each.inputs.abs() >= 5).float().mean()) > 0.5:
                    self._say(DIAGNOSIS, "saturated_activation", each.path, step)
                position = each.outputs if each.kind == "tanh" else 2 * each.outputs - 1
                if float((position.abs().mean(dim=0) > 0.85).float().mean()) > 0.5:
                    self._say(CHECKER, "saturated_activation", each.path, step)

    def _judge_accuracy(self, now: Measurement, gradients: Mapping[str, Tensor], loss: float, step: int) -> None:
        if not math.isfinite(loss):
            self._say(AUTO, "exploding_gradient", "", step)
            return
        if now.accuracy is None:
            return
        self._accuracies.append((step, now.accuracy))
        if step < 0.3 * self.steps:
            return
        values = [value for _, value in self._accuracies]
        best = max(values)
        earlier = [value for at, value in self._accuracies if at <= step - 0.3 * self.steps]
        moves = [after - before for before, after in pairwise(values)]
        turns = [a * b < 0 and min(abs(a), abs(b)) >= 0.03 for a, b in pairwise(moves)]
        if turns and sum(turns) / len(turns) >= 0.2:
            self._say(AUTO, "oscillating_loss", "", step)
        if best < 0.7 and max(moves) < 0.01:
            self._say(AUTO, "stalled_training", "", step)
        if best >= 0.7 and not (earlier and best <= max(earlier)):
            return
        norms = [(name, float(g.norm())) for name, g in gradients.items() if g.ndim > 1]
        if not norms:
            return
        (first, low), (_, high) = norms[0], norms[-1]
        if low < 1e-4 and low < 1e-3 * high:
            self._say(AUTO, "vanishing_gradient", first, step)
        if low > 70 * high:
            self._say(AUTO, "exploding_gradient", first, step)
        for name, gradient in gradients.items():
            if gradient.ndim > 1 and float((gradient == 0).float().mean()) >= 0.7:
                self._say(AUTO, "dead_relu", name, step)
