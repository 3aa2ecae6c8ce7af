"""Modules that are trained in evaluation mode."""

from collections.abc import Iterator

from lightning_gradtools.diagnosis.finding import Evidence, Finding, Kind, Remedy, Severity
from lightning_gradtools.diagnosis.observation import persists
from lightning_gradtools.diagnosis.rule import Need, Rule, RuleContext

_NEEDED = 3  # observations in a row


def find_evaluation_mode(context: RuleContext) -> Iterator[Finding]:
    """A module with dropout, or with running statistics and trained weights, that runs in evaluation mode.

    Since 2.2 Lightning leaves modes as they are, and some libraries load a model in evaluation mode. A single layer
    that was put there, and a backbone most of whose weights are frozen, are meant; see ``_lightning/modes.py``.
    """
    latest = context.latest
    if not latest.loop.evaluating:
        return
    name = latest.loop.evaluating[0]
    steps = persists(context.history, lambda each: name in each.loop.evaluating, _NEEDED)
    if not steps:
        return
    others = len(latest.loop.evaluating) - 1
    where = (name or "the whole module") + (f" and {others} more" if others else "")
    module = f"self.{name}" if name else "self"
    yield Finding(
        kind=Kind.EVALUATION_MODE,
        layer=name,
        step=latest.step,
        severity=Severity.WARNING,
        evidence=(Evidence(quantity="modules in evaluation mode", value=others + 1, threshold=0.0, steps=steps),),
        message=(
            f"{where} is trained in evaluation mode: its dropout drops nothing, and its BatchNorm takes running"
            " statistics that no step updates"
        ),
        remedy=(
            Remedy(
                sentence=(
                    "Put it into training mode in on_train_start, and look for the .eval() before: Lightning leaves"
                    " modes as they are, and pretrained models are often loaded in evaluation mode."
                ),
                code=f"{module}.train()",
            ),
            Remedy(
                sentence="If it is not to be trained, freeze it as well.",
                code=f"{module}.requires_grad_(False)",
            ),
        ),
    )


RULE = Rule(
    kind=Kind.EVALUATION_MODE,
    order=14,
    needs=frozenset({Need.OBSERVATIONS}),
    find=find_evaluation_mode,
    remedies=lambda _: (),
)
