"""Attention whose logits have grown until each query looks at one key, while nothing is learned."""

from collections.abc import Iterator, Mapping
from functools import partial

from lightning_gradtools.diagnosis.finding import Evidence, Finding, Kind, Remedy, Severity
from lightning_gradtools.diagnosis.observation import AttentionObservation, History, Observation, persists
from lightning_gradtools.diagnosis.progress import Progress
from lightning_gradtools.diagnosis.remedies import WARM_UP, lower_learning_rate
from lightning_gradtools.diagnosis.rule import Need, Rule, RuleContext

LOGIT = 15.0  # e^15 is three million times the weight of a key with logit 0
GROWTH = 5.0  # times the head's largest logit when it was first seen
ENTROPY = 0.6  # of a row, over that of equal weights; at the start it is 0.9 and more
LIMIT = 100.0  # where Kimi K2 cuts logits (QK-Clip, arXiv:2507.20534)
LITTLE, LITTLE_YET = 0.1, 0.05  # learned, as a share of what there is; the latter while the loss still falls
UNMOVED = 0.02  # fall of the loss since the start, where the loss of a constant prediction is not known
_NEEDED = 3  # observations in a row
_STEPS = 40  # of the run, before which no network has learned much

_QK_NORM = Remedy(
    sentence="Normalise queries and keys (QK-norm): logits then cannot grow without bound.",
    code="q, k = F.rms_norm(q, q.shape[-1:]), F.rms_norm(k, k.shape[-1:])",
)


def find_attention_collapse(context: RuleContext) -> Iterator[Finding]:
    """Heads whose largest logit is many times that of the first sample, whose rows are sharp, and for some time.

    Healthy attention may be sharp, and its logits grow as it learns what to look at. So both must hold while the run
    has learned next to nothing. Otherwise logits over :data:`LIMIT` are worth an ``info``.

    Sources: Zhai et al. 2023, arXiv:2303.06296; Wortsman et al. 2023, arXiv:2309.14322.
    """
    history, going = context.history, context.progress
    assert going is not None  # a need of this rule
    stuck = _has_learned_nothing(history, going)
    if history.step < _STEPS:
        return
    first = _first_logits(context)
    for layer in context.latest.attention:
        bound = LOGIT if stuck else LIMIT
        heads = _sharp(layer, first, bound)
        steps = persists(history, partial(_is_sharp, name=layer.name, first=first, bound=bound), _NEEDED)
        if not heads or not steps:
            continue
        logit, entropy = max(layer.logits[i] for i in heads), min(layer.entropies[i] for i in heads)
        names = ", ".join(map(str, heads))
        many = len(heads) > 1
        yield Finding(
            kind=Kind.ATTENTION_COLLAPSE,
            layer=layer.name,
            step=context.latest.step,
            severity=Severity.WARNING if stuck else Severity.INFO,
            evidence=(
                Evidence(quantity="largest attention logit", value=logit, threshold=bound, steps=steps),
                Evidence(
                    quantity="entropy of attention weights / that of equal weights",
                    value=entropy,
                    threshold=ENTROPY,
                    steps=steps,
                ),
                Evidence(
                    quantity="heads that have collapsed / heads",
                    value=len(heads) / len(layer.logits),
                    threshold=0.0,
                    steps=steps,
                ),
            ),
            message=(
                f"the attention logits of {layer.name}, head{'s' if many else ''} {names} of {len(layer.logits)}, have"
                f" grown to {logit:.3g}: a query attends to hardly more than one key"
                + (", and next to nothing is learned" if stuck else ", though the run has learned")
            ),
        )


def _has_learned_nothing(history: History, going: Progress) -> bool:
    if history.baseline_loss() is None and history.skill() is None:
        return going.gain < UNMOVED and not going.improving
    return going.gain < (LITTLE_YET if going.improving else LITTLE)


def _first_logits(context: RuleContext) -> Mapping[str, tuple[float, ...]]:
    first: dict[str, tuple[float, ...]] = {}
    for observation in context.history.first_observations:
        for layer in observation.attention:
            first.setdefault(layer.name, layer.logits)
    return first


def _sharp(layer: AttentionObservation, first: Mapping[str, tuple[float, ...]], bound: float) -> list[int]:
    """Return the heads of ``layer`` whose logits have grown beyond ``bound`` and whose rows are sharp."""
    known = first.get(layer.name, ())
    if len(known) != len(layer.logits):
        return []
    heads = zip(layer.logits, layer.entropies, known, strict=True)
    return [
        i
        for i, (logit, entropy, before) in enumerate(heads)
        if logit >= bound and logit >= GROWTH * before and entropy <= ENTROPY
    ]


def _is_sharp(observation: Observation, name: str, first: Mapping[str, tuple[float, ...]], bound: float) -> bool:
    return any(layer.name == name and _sharp(layer, first, bound) for layer in observation.attention)


def _remedies(context: RuleContext) -> tuple[Remedy, ...]:
    return (_QK_NORM, WARM_UP, lower_learning_rate(context))


RULE = Rule(
    kind=Kind.ATTENTION_COLLAPSE,
    order=18,
    needs=frozenset({Need.OBSERVATIONS, Need.PROGRESS}),
    find=find_attention_collapse,
    remedies=_remedies,
)
