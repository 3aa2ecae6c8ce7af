"""A layer that runs, is to be trained, and gets no gradient at all."""

from collections.abc import Iterator

from lightning_gradtools.diagnosis.finding import Evidence, Finding, Kind, Remedy, Severity
from lightning_gradtools.diagnosis.observation import History, Observation, persists

_NEEDED = (
    4  # observations in a row: the first steps of zero-initialised residual branches have zero gradients by design
)

_REMEDY = (
    Remedy(
        "Look for .detach(), .data, .item(), torch.no_grad() or a new tensor made of numbers between this layer and"
        " the loss."
    ),
    Remedy(
        "If it is not to be trained, freeze it, so that the optimizer leaves it out.",
        code="layer.requires_grad_(False)",
    ),
)


def find_no_gradient(history: History) -> Iterator[Finding]:
    """Layers whose weights an optimizer has, that ran, and whose gradient is None or exactly zero; others have one.

    Exactly zero, not small: no threshold. A frozen layer is not in question, nor one that did not run. Where the units
    of a whole activation are silent the zeros come from there, which is another finding.
    """
    if not history.observations:
        return
    latest = history.observations[-1]
    for layer in latest.layers:
        steps = persists(history, [_cut_off(each, layer.name) for each in history.observations], _NEEDED)
        if not steps:
            continue
        message = f"{layer.name} runs and is to be trained, but no gradient reaches its weights"
        evidence = (Evidence("norm of the gradient of its weights", layer.gradient or 0.0, 0.0, steps),)
        yield Finding(Kind.NO_GRADIENT, layer.name, latest.step, Severity.WARNING, evidence, message, _REMEDY)


def _cut_off(observation: Observation, name: str) -> bool:
    blocked = any(each.silent == each.units or each.dead == each.units for each in observation.activations)
    alive = any(layer.gradient for layer in observation.layers)
    here = [layer for layer in observation.layers if layer.name == name]
    return bool(here) and alive and not blocked and here[0].trainable and not here[0].gradient
