"""A layer that runs, is to be trained, and gets no gradient at all."""

from collections.abc import Iterator, Sequence

from lightning_gradtools.diagnosis.finding import Evidence, Finding, Kind, Remedy, Severity
from lightning_gradtools.diagnosis.observation import History, Observation
from lightning_gradtools.diagnosis.rule import Need, Rule, RuleContext

# Observations in a row. The first steps of zero-initialised residual branches have zero gradients by design.
_NEEDED = 4
_NEEDED_UNCALLED = 8  # one that forward calls now and then, as one head of several, comes up in that time

_FREEZE = Remedy(
    sentence="If it is not to be trained, freeze it, so that the optimizer leaves it out.",
    code="layer.requires_grad_(False)",
)
_REMEDY = (
    Remedy(
        sentence=(
            "See that what it returns is used, and look for .detach(), .data, .item(), torch.no_grad() or a new tensor"
            " made of numbers between this layer and the loss."
        )
    ),
    _FREEZE,
)
_REMEDY_ZERO = (
    Remedy(
        sentence=(
            "Look for a factor that is always zero between this layer and the loss: a softmax over one unit, a weight,"
            " gate or mask of zeros, a clamp outside its range, a loss that is zero already."
        )
    ),
    _FREEZE,
)
_REMEDY_UNCALLED = (
    Remedy(
        sentence=(
            "Call it in forward(), or take it out: under DDP it stops the run, unless unused parameters are searched."
        )
    ),
    _FREEZE,
)


def find_no_gradient(context: RuleContext) -> Iterator[Finding]:
    """Layers whose weights an optimizer has, and whose gradient is None or exactly zero; others have one.

    Experts that are not chosen, beside others that are, are what :mod:`expert_imbalance` is about.
    Exactly zero, not small: no threshold. A frozen layer is not in question. Where the units of a whole activation are
    silent, or half of them saturated, the zeros come from there, which is another finding. A layer that did not run is
    one too; a layer that a gradient ever reached is not: several heads may take turns. Where this holds of all layers
    of a module, the module is named and not each of them.
    """
    history, latest = context.history, context.latest
    known = [layer.name for layer in latest.layers]
    spared = _not_chosen(history)
    for name in outermost(_never_called(history) - spared, known):
        message = f"{name} is to be trained, but the forward pass never calls it, so no gradient reaches its weights"
        yield _finding(history, name, _NEEDED_UNCALLED, message, _REMEDY_UNCALLED)
    cut_off = [_cut_off(each) for each in history.observations[-_NEEDED:]] if _cut_off(latest) else []
    if len(cut_off) < _NEEDED:
        return
    cut = set.intersection(*cut_off) - history.reached - spared
    zero = {layer.name for layer in latest.layers if layer.name in cut and layer.backward == 0}
    for name in outermost(zero, known):
        message = f"{name} runs and is to be trained, but the gradient that comes back to it is exactly zero"
        yield _finding(history, name, _NEEDED, message, _REMEDY_ZERO)
    for name in outermost(cut - zero, known):
        message = f"{name} runs and is to be trained, but no gradient reaches its weights"
        yield _finding(history, name, _NEEDED, message)


def outermost(chosen: set[str], known: Sequence[str]) -> list[str]:
    """Return the paths of the largest modules all of whose ``known`` layers are ``chosen``, in order."""

    def largest(name: str) -> str:
        parent = name.rpartition(".")[0]
        inside = [each for each in known if each == parent or each.startswith(f"{parent}.")]
        return largest(parent) if parent and chosen.issuperset(inside) else name

    return sorted(set(map(largest, chosen)))


def _finding(history: History, name: str, needed: int, message: str, remedy: tuple[Remedy, ...] = ()) -> Finding:
    step = history.observations[-1].step
    steps = step - history.observations[-needed].step + 1
    return Finding(
        kind=Kind.NO_GRADIENT,
        layer=name,
        step=step,
        severity=Severity.WARNING,
        evidence=(Evidence(quantity="norm of the gradient of its weights", value=0.0, threshold=0.0, steps=steps),),
        message=message,
        remedy=remedy,
    )


def _not_chosen(history: History) -> set[str]:
    """Return the layers of experts in which a gradient has reached some expert."""
    spared: set[str] = set()
    for routing in history.observations[-1].routing:
        inside = f"{routing.experts}."
        if any(name.startswith(inside) for name in history.reached):
            spared |= {layer.name for layer in history.observations[-1].layers if layer.name.startswith(inside)}
    return spared


def _never_called(history: History) -> set[str]:
    latest = history.observations[-_NEEDED_UNCALLED:]
    if len(latest) < _NEEDED_UNCALLED or not history.reached:
        return set()
    uncalled = [{layer.name for layer in each.layers if layer.trainable and not layer.ran} for each in latest]
    return set.intersection(*uncalled) - history.reached


def _cut_off(observation: Observation) -> set[str]:
    without = {layer.name for layer in observation.layers if layer.trainable and layer.ran and not layer.gradient}
    if not without or not any(layer.gradient for layer in observation.layers):
        return set()
    blocked = any(
        each.silent == each.units or each.dead == each.units or 2 * each.saturated >= each.units
        for each in observation.activations
    )
    return set() if blocked else without


RULE = Rule(
    kind=Kind.NO_GRADIENT,
    order=20,
    needs=frozenset({Need.OBSERVATIONS}),
    find=find_no_gradient,
    remedies=lambda _: _REMEDY,
)
