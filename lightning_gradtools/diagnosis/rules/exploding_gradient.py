"""The loss runs away, or the gradient grows at every layer on its way back and the network does not learn."""

from collections.abc import Iterator

from lightning_gradtools.diagnosis.finding import Evidence, Finding, Kind, Remedy, Severity
from lightning_gradtools.diagnosis.observation import History, Observation, persists
from lightning_gradtools.diagnosis.progress import progress

WORSE = 2.0  # times the baseline loss
RUNAWAY = 3.0  # times the loss at the start, where the baseline is not known
JUMP = 10.0  # times the baseline loss, and that at the start, twice running
GROWTH = 1e3  # backward, end to end

_REMEDY = (
    Remedy("Lower the learning rate tenfold.", ("optimizer.lr=0.001",)),
    Remedy(
        "Clip the gradient's norm.",
        ("callbacks/gradtools=[gradient_clipping]", "callbacks.gradient_clipping.max_norm=1.0"),
        "GradientClipping(max_norm=1.0)",
    ),
    Remedy("Warm the learning rate up.", ("schedule=warmup_cosine",), "WarmupCosineSchedule()"),
    Remedy("Scale inputs, targets and initial weights to unit variance.", ("model.net.init=he",)),
)


def find_exploding_gradient(history: History) -> Iterator[Finding]:
    """A loss far above its start, or above the baseline, that does not come down; or a profile that grows backward."""
    if not history.observations:
        return
    going = progress(history)
    latest = history.observations[-1]
    skills = [each.skill for each in history.observations if each.skill is not None]
    evidence: list[Evidence] = []
    first = max(1.0, 1 - skills[0]) if skills else 1.0
    # one is an outlier
    if steps := persists(history, lambda each: each.skill is not None and 1 - each.skill > JUMP * first, 2):
        evidence = [Evidence("loss / loss of a constant prediction", 1 - skills[-1], JUMP * first, steps)]
    elif going is None:
        return
    elif len(skills) >= 3:
        now, start = going.gain, skills[0]
        if 1 - now > WORSE and (1 - now > WORSE * max(1.0, 1 - start) or not going.improving):
            steps = persists(history, lambda each: each.skill is not None and 1 - each.skill > WORSE, 3)
            if steps:
                evidence = [Evidence("loss / loss of a constant prediction", 1 - now, WORSE, steps)]
    elif not skills and going.start > 0 and going.level > RUNAWAY * going.start and not going.improving:
        evidence = [Evidence("loss / loss at the start", going.level / going.start, RUNAWAY, going.steps)]
    if evidence:
        ratios = {layer.name: layer.update_ratio for layer in latest.layers if layer.update_ratio == layer.update_ratio}
        layer = max(ratios, key=lambda name: ratios[name], default="")
        if layer:
            evidence.append(Evidence(f"change of the weights in one step / weights, in {layer}", ratios[layer], 0.1))
        severity = Severity.CRITICAL if evidence[0].value > 10 else Severity.WARNING
        message = (
            f"training diverges: the {evidence[0].quantity.split(' / ')[0]} is {evidence[0].value:.3g} times the"
            f" {evidence[0].quantity.split(' / ')[1]} and does not come down"
        )
        yield Finding(Kind.EXPLODING_GRADIENT, layer, latest.step, severity, tuple(evidence), message, _REMEDY)
        return
    if going is None:
        return
    steps = persists(history, lambda each: growth(each)[0] > GROWTH, 3)
    if steps:
        ratio, layer = growth(latest)
        sick = going.steps >= 20 and going.nothing_learned() and not history.warming_up()
        message = (
            f"the gradient explodes on its way back: at {layer} it is {ratio:.1e} times what enters at the last layer"
        )
        found = (Evidence("largest norm of the loss gradient at a layer / that at the last", ratio, GROWTH, steps),)
        severity = Severity.WARNING if sick else Severity.INFO
        yield Finding(Kind.EXPLODING_GRADIENT, layer, latest.step, severity, found, message, _REMEDY)


def growth(observation: Observation) -> tuple[float, str]:
    """Return the largest norm of the loss gradient at a layer's output over that at the last layer's, and the layer."""
    layers = observation.chain
    if not layers or not layers[-1].backward:
        return 1.0, ""
    top = max(layers, key=lambda layer: layer.backward or 0.0)
    return (top.backward or 0.0) / layers[-1].backward, top.name
