"""A NaN or an infinity: where the first one came from."""

from collections.abc import Iterator

from lightning_gradtools.diagnosis.finding import Evidence, Finding, Kind, Remedy, Severity
from lightning_gradtools.diagnosis.observation import History

_RECOVERED = 50  # steps with finite losses after which it is over
_GROWN = 10.0  # times the baseline loss: what overflowed then had been growing

_REMEDIES = {
    "input data": (
        Remedy(
            "Clean the data: drop or fill the samples named, or check them when the data set is made.",
            code="assert torch.isfinite(x).all()",
        ),
        Remedy(
            "Skip steps whose gradients are not finite.",
            ("callbacks/gradtools=[gradient_clipping]",),
            "GradientClipping(on_nonfinite='skip')",
        ),
    ),
    "optimizer update": (
        Remedy("Lower the learning rate, or warm it up.", ("schedule=warmup_cosine",), "WarmupCosineSchedule()"),
        Remedy(
            "Raise the optimizer's eps: a denominator near zero makes a step without bound.", ("+optimizer.eps=1e-8",)
        ),
    ),
}
_OTHERWISE = (
    Remedy(
        "Look at the operation for log, sqrt, division or exp of what may be zero or large; clamp its input.",
        code="x.clamp(min=1e-6).log()",
    ),
    Remedy(
        "Lower the learning rate or clip the gradient, if values had been growing before.",
        ("callbacks/gradtools=[gradient_clipping]", "callbacks.gradient_clipping.max_norm=1.0"),
        "GradientClipping(max_norm=1.0)",
    ),
)


def find_nonfinite(history: History) -> Iterator[Finding]:
    """Every non-finite value is critical, for as long as they come and :data:`_RECOVERED` steps after."""
    for event in history.nonfinite:
        if event is not history.nonfinite[-1] or history.step - history.last_nonfinite > _RECOVERED:
            continue
        where = event.layer or ("the input data" if event.direction == "input data" else "no single module")
        message = (
            f"the first NaN or infinity came up in the {event.direction} of batch {event.batch_index} at step"
            f" {event.step} on rank {event.rank}: {where}" + (f" ({event.detail})" if event.detail else "")
        )
        lasted = max(1, history.last_nonfinite - event.step + 1)
        evidence = (
            Evidence("step of the first non-finite value", event.step, -1, lasted),
            Evidence("batch index", event.batch_index, -1),
            Evidence("rank", event.rank, -1),
        )
        grown = any(each.skill is not None and 1 - each.skill > _GROWN for each in history.observations[-3:])
        remedy = _REMEDIES.get(event.direction, _OTHERWISE[::-1] if grown else _OTHERWISE)
        yield Finding(Kind.NONFINITE, event.layer, event.step, Severity.CRITICAL, evidence, message, remedy)
