"""Weights from which training cannot start well: units that are all alike, signals that die or blow up on their way."""

from collections.abc import Iterator

from lightning_gradtools.diagnosis.finding import Evidence, Finding, Kind, Remedy, Severity
from lightning_gradtools.diagnosis.observation import History
from lightning_gradtools.diagnosis.progress import progress, too_slow

SIGNAL = 1e3  # largest over smallest deviation over samples of the layers' outputs
LOSS = 10.0  # times the baseline loss
_LOSSES = 20

_REMEDY = (
    Remedy(
        "Draw the weights at random, by He for ReLU and Xavier for tanh and sigmoid.",
        ("model.net.init=he", "model.net.init_scale=1"),
        "nn.init.kaiming_normal_(layer.weight, nonlinearity='relu')",
    ),
    Remedy("Scale the inputs to zero mean and unit variance."),
    Remedy("Normalise between layers.", ("model.net.norm=layer",), "nn.LayerNorm(width)"),
)


def find_poor_initialization(history: History) -> Iterator[Finding]:
    """Symmetry, which training can never break; and a signal that changes a thousandfold, if nothing is learned.

    Symmetry is exact: all units of a layer have the same weights *and* receive the same gradient. A zero-initialised
    layer whose units receive different gradients is healthy.
    """
    seen = [each for each in history.observations if each.step <= 4]
    if not seen or seen[0].step > 0:
        return
    latest = history.observations[-1]
    identical = [{layer.name for layer in each.layers if layer.identical} for each in seen[:2]]
    alike = [layer.name for layer in seen[0].layers if all(layer.name in each for each in identical)]
    if alike and len(seen) >= 2:
        message = (
            f"all units of {alike[0]} start with the same weights and receive the same gradient: they stay one unit"
            + (f" (so do those of {len(alike) - 1} more layers)" if len(alike) > 1 else "")
        )
        evidence = (Evidence("layers whose units are all alike", len(alike), 0, latest.step + 1),)
        yield Finding(Kind.POOR_INITIALIZATION, alike[0], latest.step, Severity.CRITICAL, evidence, message, _REMEDY)
        return
    going = progress(history)
    sick = going is not None and (
        (going.steps >= _LOSSES and going.nothing_learned() and not history.warming_up())
        or (going.steps >= 2 * _LOSSES and 1 - going.gain > LOSS)  # it comes down, from too high up
        or too_slow(history, going)
    )
    severity = Severity.WARNING if sick else Severity.INFO
    signals = {layer.name: layer.signal for layer in seen[0].layers if layer.signal is not None and layer.signal > 0}
    low, high = (
        (min(signals, key=lambda name: signals[name]), max(signals, key=lambda name: signals[name]))
        if len(signals) > 2
        else ("", "")
    )
    spread = signals[high] / signals[low] if low else 1.0
    if spread > SIGNAL:
        names = list(signals)
        dies = names.index(low) > names.index(high)
        message = (
            f"from the initial weights, what tells samples apart {'dies out' if dies else 'blows up'}:"
            f" a deviation of {signals[low]:.1e} at {low}, of {signals[high]:.1e} at {high}"
        )
        evidence = (Evidence("largest / smallest deviation over samples", spread, SIGNAL, latest.step + 1),)
        layer = low if dies else high
        yield Finding(Kind.POOR_INITIALIZATION, layer, latest.step, severity, evidence, message, _REMEDY)
        return
    loss = 1.0 - seen[0].skill if seen[0].skill is not None else 1.0
    if loss > LOSS:
        message = (
            f"from the initial weights the loss is {loss:.3g} times that of a constant prediction: the outputs are far"
            " too large"
        )
        evidence = (Evidence("first loss / loss of a constant prediction", loss, LOSS, latest.step + 1),)
        yield Finding(Kind.POOR_INITIALIZATION, "", latest.step, severity, evidence, message, _REMEDY)
