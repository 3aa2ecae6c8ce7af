"""What is true of a network at one moment, in float64, on the whole training set.

It works on a copy of the network and keeps the random state, so the run does not notice.
"""

import copy
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from detection.capture import activations, by_unit
from detection.data import Data
from detection.experiment import Experiment

PARAMETRIC = (nn.Linear, nn.Conv2d, nn.Embedding, nn.RNNBase)
FLAT = 0.01  # of a tanh's or sigmoid's range, on each side: there its slope is below a 25th of its largest


@dataclass
class Measurement:
    """One moment.

    Attributes:
        step: optimizer steps taken.
        objective, trained: the user's loss and the one that is trained.
        accuracy: of classes, or 1 - squared error / variance; None for sequences and adversarial pairs.
        backward: layer path -> norm of the gradient of the trained loss with respect to the layer's output,
            in order of execution.
        gradient: layer path -> norm of the gradient with respect to its parameters.
        none: parameters with no gradient, or one of exact zeros.
        scale: layer path -> root mean square of its output.
        signal: layer path -> standard deviation over samples, the mean over its units.
        twins: layers all of whose units have the same incoming weights.
        dead: path of a module that applies ReLU -> fraction of units that are zero on every training sample.
        flat: path -> fraction of values on the flat sides of a tanh or sigmoid, or of rows of a softmax with one
            weight above 0.999.
    """

    step: int
    objective: float
    trained: float
    accuracy: float | None = None
    backward: dict[str, float] = field(default_factory=dict)
    gradient: dict[str, float] = field(default_factory=dict)
    none: list[str] = field(default_factory=list)
    scale: dict[str, float] = field(default_factory=dict)
    signal: dict[str, float] = field(default_factory=dict)
    twins: list[str] = field(default_factory=list)
    dead: dict[str, float] = field(default_factory=dict)
    flat: dict[str, float] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Return plain numbers; JSON has them to four digits, which no definition needs more of."""
        return {key: _rounded(value) for key, value in asdict(self).items()}


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(each) for key, each in value.items()}
    return float(f"{value:.4g}") if isinstance(value, float) else value


def measure(module: Experiment, data: Data, step: int) -> Measurement:
    """Return what is true after ``step`` optimizer steps."""
    net = copy.deepcopy(module.net).double().train()
    x, y = (t.double() if t.is_floating_point() else t for t in (data.inputs, data.targets))
    outputs: dict[str, Tensor] = {}
    for name, layer in net.named_modules(prefix="net"):
        if isinstance(layer, PARAMETRIC):
            layer.register_forward_hook(lambda m, i, o, name=name: _keep(outputs, name, o))
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(step)
        with activations(net) as seen:
            objective, trained, output = module.measured(net, x, y)
        names, parameters = zip(
            *[(n, p) for n, p in net.named_parameters(prefix="net") if p.requires_grad], strict=True
        )
        reached = {name: out for name, out in outputs.items() if out.requires_grad}
        gradients = torch.autograd.grad(trained, [*reached.values(), *parameters], allow_unused=True)
    result = Measurement(step, float(objective), float(trained))
    for name, gradient in zip(reached, gradients, strict=False):
        result.backward[name] = 0.0 if gradient is None else float(gradient.norm())
    squares: dict[str, float] = {}
    for name, gradient in zip(names, gradients[len(reached) :], strict=True):
        size = (
            0.0
            if gradient is None
            else float(gradient.coalesce().values().norm() if gradient.is_sparse else gradient.norm())
        )
        if size == 0.0:
            result.none.append(name)
        layer_name = name.rpartition(".")[0]
        squares[layer_name] = squares.get(layer_name, 0.0) + size**2
    result.gradient = {name: square**0.5 for name, square in squares.items()}
    with torch.no_grad():
        for name, out in outputs.items():
            units = by_unit(out)
            result.scale[name] = float(units.square().mean().sqrt())
            result.signal[name] = float(units.std(dim=0).mean())
        for name, layer in net.named_modules(prefix="net"):
            if isinstance(layer, (nn.Linear, nn.Conv2d)) and len(layer.weight) > 1:
                rows = layer.weight.flatten(1)
                if bool((rows == rows[0]).all()):
                    result.twins.append(name)
        _measure_activations(result, seen.found)
        result.accuracy = _accuracy(output, y, data)
    return result


def _keep(outputs: dict[str, Tensor], name: str, output: Any) -> None:
    while isinstance(output, tuple):  # a recurrent layer's states come first, in a packed sequence if that was given
        output = output[0]
    outputs[name] = output


def _measure_activations(result: Measurement, found: dict[str, list[tuple[str, Tensor, Tensor]]]) -> None:
    for path, calls in found.items():
        relus = [by_unit(output) for kind, _, output in calls if kind == "relu"]
        groups: dict[int, list[Tensor]] = {}
        for call, units in enumerate(relus):
            # a functional ReLU after several layers of one module: each call is a layer of its own,
            # but a cell called at each time step is one
            key = call if len(relus) <= 8 and "cell" not in path else 0
            groups.setdefault(key, []).append((units == 0).all(dim=0))
        for call, dead in groups.items():
            name = path if len(groups) == 1 else f"{path}#{call}"
            result.dead[name] = float(torch.stack(dead).all(dim=0).double().mean())
        flat = [_flat(kind, output) for kind, _, output in calls if kind in ("tanh", "sigmoid", "softmax")]
        if flat:
            result.flat[path] = sum(flat) / len(flat)


def _flat(kind: str, output: Tensor) -> float:
    if kind == "softmax":
        return float((output.amax(dim=-1) > 0.999).double().mean())
    position = (output + 1) / 2 if kind == "tanh" else output
    return float(((position < FLAT) | (position > 1 - FLAT)).double().mean())


def _accuracy(output: Tensor | None, y: Tensor, data: Data) -> float | None:
    if output is None or (y.ndim > 1 and y.dtype == torch.int64):
        return None
    if y.dtype == torch.int64:
        return float((output.argmax(dim=-1) == y).double().mean())
    return 1 - float((output - y).square().mean()) / data.constant_loss
