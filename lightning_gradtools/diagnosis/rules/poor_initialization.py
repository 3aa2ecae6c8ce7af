"""Weights from which training cannot start well: units that are all alike, signals that die or blow up on their way."""

from collections.abc import Iterator

from lightning_gradtools.diagnosis.finding import Evidence, Finding, Kind, Remedy, Severity
from lightning_gradtools.diagnosis.observation import History
from lightning_gradtools.diagnosis.progress import progress

SIGNAL = 1e3  # largest over smallest root mean square of the layers' outputs
_LOSSES = 20

_REMEDY = (
    Remedy("Draw the weights at random, by He for ReLU and Xavier for tanh and sigmoid.",
           ("model.net.init=he", "model.net.init_scale=1"), "nn.init.kaiming_normal_(layer.weight, nonlinearity='relu')"),
    Remedy("Scale the inputs to zero mean and unit variance."),
    Remedy("Normalise between layers.", ("model.net.norm=layer",), "nn.LayerNorm(width)"),
)  # fmt: skip


def find_poor_initialization(history: History) -> Iterator[Finding]:
    """Symmetry, which training can never break; and an initial signal that changes a thousandfold, if nothing is learned.

    Symmetry is exact: all units of a layer have the same weights *and* receive the same gradient. A zero-initialised
    layer whose units receive different gradients is healthy.
    """
    seen = [each for each in history.observations if each.step <= 4]
    if not seen or seen[0].step > 0:
        return
    latest = history.observations[-1]
    alike = [
        layer.name
        for layer in seen[0].layers
        if all(any(other.name == layer.name and other.identical for other in each.layers) for each in seen[:2])
    ]
    if alike and len(seen) >= 2:
        message = (
            f"all units of {alike[0]} start with the same weights and receive the same gradient: they stay one unit"
            + (f" (so do those of {len(alike) - 1} more layers)" if len(alike) > 1 else "")
        )
        evidence = (Evidence("layers whose units are all alike", len(alike), 0, latest.step + 1),)
        yield Finding(Kind.POOR_INITIALIZATION, alike[0], latest.step, Severity.CRITICAL, evidence, message, _REMEDY)
        return
    outputs = {layer.name: layer.output for layer in seen[0].layers if layer.output > 0}
    if len(outputs) < 3:
        return
    low, high = min(outputs, key=lambda name: outputs[name]), max(outputs, key=lambda name: outputs[name])
    spread = outputs[high] / outputs[low]
    if spread < SIGNAL:
        return
    going = progress(history)
    sick = going is not None and going.steps >= _LOSSES and going.nothing_learned() and not history.warming_up()
    names = list(outputs)
    layer = low if names.index(low) > names.index(high) else high
    what = "dies out" if layer == low else "blows up"
    message = f"from the initial weights the signal {what}: {outputs[low]:.1e} at {low}, {outputs[high]:.1e} at {high}"
    severity = Severity.WARNING if sick else Severity.INFO
    evidence = (Evidence("largest / smallest output of a layer (root mean square)", spread, SIGNAL, latest.step + 1),)
    yield Finding(Kind.POOR_INITIALIZATION, layer, latest.step, severity, evidence, message, _REMEDY)
