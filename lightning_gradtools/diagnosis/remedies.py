"""Remedies that several rules offer. A remedy names a :class:`Change`; which command makes it is the application's."""

from lightning_gradtools.diagnosis.finding import Change, Remedy
from lightning_gradtools.diagnosis.rule import RuleContext

_TIMES = {3: "threefold", 10: "tenfold", 100: "a hundredfold"}

SCALE_INPUTS = Remedy(sentence="Scale the inputs to zero mean and unit variance.")
WARM_UP = Remedy(sentence="Warm the learning rate up.", change=Change.WARM_UP, code="WarmupCosineSchedule()")
CLIP_NORM = Remedy(sentence="Clip the gradient's norm.", change=Change.CLIP_NORM, code="GradientClipping(max_norm=1.0)")
HE_INIT = Remedy(
    sentence="Draw the weights at random, by He for ReLU and Xavier for tanh and sigmoid.",
    change=Change.HE_INIT,
    code="nn.init.kaiming_normal_(layer.weight, nonlinearity='relu')",
)
NORMALISE = Remedy(sentence="Normalise between layers.", change=Change.NORMALISE, code="nn.LayerNorm(width)")


def lower_learning_rate(context: RuleContext, times: int = 10, why: str = "") -> Remedy:
    """Return the advice to divide the observed learning rate.

    Args:
        context: with the latest observation.
        times: by how much: 3, 10 or 100.
        why: the end of the sentence, with the comma or colon before it.
    """
    value = _rounded(context.latest.learning_rate / times)
    sentence = f"Lower the learning rate {_TIMES[times]}{_to(value)}{why}."
    return Remedy(sentence=sentence, change=Change.LOWER_LEARNING_RATE, value=value, code=_assignment("lr", value))


def raise_learning_rate(context: RuleContext, times: int = 10, why: str = "") -> Remedy:
    """Return the advice to multiply the observed learning rate; see :func:`lower_learning_rate`."""
    value = _rounded(context.latest.learning_rate * times)
    sentence = f"Raise the learning rate {_TIMES[times]}{_to(value)}{why}."
    return Remedy(sentence=sentence, change=Change.RAISE_LEARNING_RATE, value=value, code=_assignment("lr", value))


def search_learning_rate(context: RuleContext) -> Remedy:
    """Return the advice to look for the learning rate on both sides of the observed one."""
    value = _rounded(context.latest.learning_rate)
    between = "" if value is None else f", from {value / 10:.2g} to {value * 10:.2g}"
    return Remedy(
        sentence=f"Search for the learning rate, from ten times smaller to ten times larger{between}.",
        change=Change.SEARCH_LEARNING_RATE,
        value=value,
        code="lr_range_test(trainer, module)",
    )


def lower_weight_decay() -> Remedy:
    """Return the advice to leave weight decay out."""
    return Remedy(
        sentence="Lower the weight decay.",
        change=Change.LESS_WEIGHT_DECAY,
        value=0.0,
        code=_assignment("weight_decay", 0.0),
    )


def raise_eps() -> Remedy:
    """Return the advice to raise the ``eps`` of Adam and its like a hundredfold above torch's default."""
    return Remedy(
        sentence="Raise the optimizer's eps: a denominator near zero makes a step without bound.",
        change=Change.RAISE_EPS,
        value=1e-6,
        code=_assignment("eps", 1e-6),
    )


def _rounded(rate: float) -> float | None:
    """Return ``rate`` to two digits, None if it is zero: nothing that is observed then tells another one."""
    return float(f"{rate:.2g}") if rate > 0 else None


def _to(value: float | None) -> str:
    return "" if value is None else f", to {value:g}"


def _assignment(option: str, value: float | None) -> str:
    return "" if value is None else f"for group in optimizer.param_groups: group['{option}'] = {value:g}"
