"""What the first steps of a fit showed of its contracts: what each loss is given, what comes in, and which batch."""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from lightning_gradtools.diagnosis.state import from_state


@dataclass(frozen=True)
class LossMeasures:
    """Numbers on what a loss function was given, as means over a step's calls and over ranks.

    Attributes:
        samples: length of the first dimension.
        simplex: share of rows of predictions that are at least 0 and sum to 1, of a loss over classes.
        heavy: share of rows the exponentials of which sum to more than 1.1, which those of log-probabilities do not.
        light: share of rows where they sum to less than 0.9.
        outside: share of targets that the last activation function cannot put out.
        unreachable: mean squared distance of the targets from what it can put out, over their variance.
        mean: of the targets.
        square: mean of their squares.
        spread: standard deviation of the targets over samples, root of the mean square over columns.
        lowest: the least target.
        highest: the largest target.
        whole: share of targets that are whole numbers.
        bits: share of targets that are 0 or 1.
        one_hot: share of rows of targets of which one is 1 and the others are 0.
        beyond: share of targets under -0.3 or over 1.3, which no smoothing of labels makes of 0 and 1.
        undistributed: share of rows of targets that do not sum to 1, where there are several columns.
    """

    samples: float = 0.0
    simplex: float = 0.0
    heavy: float = 0.0
    light: float = 0.0
    outside: float = 0.0
    unreachable: float = 0.0
    mean: float = 0.0
    square: float = 0.0
    spread: float = 0.0
    lowest: float = 0.0
    highest: float = 0.0
    whole: float = 0.0
    bits: float = 0.0
    one_hot: float = 0.0
    beyond: float = 0.0
    undistributed: float = 0.0

    @property
    def scale(self) -> float:
        """Root mean square of the targets."""
        return math.sqrt(max(self.square, 0.0))

    @property
    def offset(self) -> float:
        """Mean of the targets by magnitude, in their deviations over samples; 0 where they do not differ."""
        return abs(self.mean) / self.spread if self.spread > 0 else 0.0


@dataclass(frozen=True)
class LossCall:
    """One loss function in one place.

    Attributes:
        function: its name in ``torch.nn.functional``.
        layer: path of the layer nearest before it.
        activations: the functions between that layer and the loss, the last one first.
        outputs: number of classes, or of columns of the prediction.
        constant: whether one of ``activations`` is a softmax over a single unit.
        crossed: whether prediction and target are stretched to a shape that neither of them has.
        shapes: of prediction and target where ``crossed``, in words.
        measures: numbers on both.
    """

    function: str
    layer: str
    activations: tuple[str, ...] = ()
    outputs: int = 1
    constant: bool = False
    crossed: bool = False
    shapes: str = ""
    measures: LossMeasures = field(default_factory=LossMeasures)

    @property
    def site(self) -> tuple[str, str, tuple[str, ...], int]:
        """What tells it from others."""
        return self.function, self.layer, self.activations, self.outputs

    @property
    def last(self) -> str:
        """The activation function that puts out what the loss is given; "" without one."""
        return self.activations[0] if self.activations else ""


@dataclass(frozen=True)
class InputMeasures:
    """Numbers on the input of the first layer, as means over ranks.

    Attributes:
        samples: length of the first dimension.
        scale: root mean square of the feature where that is largest.
        offset: median over features of the mean by magnitude over the deviation.
        mean: over all elements.
        deviation: over all elements.
        alike: 1 where all samples are the same.
    """

    samples: float = 0.0
    scale: float = 0.0
    offset: float = 0.0
    mean: float = 0.0
    deviation: float = 0.0
    alike: float = 0.0


@dataclass(frozen=True)
class FirstInput:
    """What the first layer with weights is given.

    Attributes:
        layer: its path.
        plain: whether these are numbers, and no normalisation comes before or right after the layer.
        measures: numbers on them.
    """

    layer: str
    plain: bool
    measures: InputMeasures = field(default_factory=InputMeasures)


@dataclass(frozen=True)
class Contracts:
    """What one of the first steps showed.

    Attributes:
        step: the optimizer step.
        batch_index: index in its epoch of the batch that ended the step.
        losses: the calls of known loss functions.
        input: what the first layer was given; None if that is not known.
        fingerprints: of the batch, of the first layer's input and of the losses' targets; empty where a batch is
            repeated on purpose, or has no tensors.
        sized: whether the training data has a known length.
    """

    step: int
    batch_index: int = 0
    losses: tuple[LossCall, ...] = ()
    input: FirstInput | None = None
    fingerprints: tuple[float, ...] = ()
    sized: bool = False

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> "Contracts":
        """Return what ``asdict`` made the ``state`` of, also of another version."""
        first = state.get("input")
        losses = [
            from_state(
                LossCall,
                {
                    **each,
                    "activations": tuple(each.get("activations", ())),
                    "measures": from_state(LossMeasures, each.get("measures", {})),
                },
            )
            for each in state.get("losses", ())
        ]
        return from_state(
            cls,
            {
                **state,
                "losses": tuple(losses),
                "input": first
                and from_state(FirstInput, {**first, "measures": from_state(InputMeasures, first.get("measures", {}))}),
                "fingerprints": tuple(state.get("fingerprints", ())),
            },
        )


def loss_calls(contracts: Sequence[Contracts]) -> list[LossCall]:
    """Return the calls of the first steps, each with the mean of its measures over them."""
    found: dict[tuple[Any, ...], list[LossCall]] = {}
    for each in contracts:
        for call in each.losses:
            found.setdefault(call.site, []).append(call)
    return [
        LossCall(**{**vars(calls[-1]), "measures": _mean(LossMeasures, [call.measures for call in calls])})
        for calls in found.values()
    ]


def first_input(contracts: Sequence[Contracts]) -> FirstInput | None:
    """Return what the first layer was given in the first steps, if that is one layer, with the mean of its measures."""
    inputs = [each.input for each in contracts if each.input is not None]
    if not inputs or any((each.layer, each.plain) != (inputs[0].layer, inputs[0].plain) for each in inputs):
        return None
    measures = _mean(InputMeasures, [each.measures for each in inputs])
    return FirstInput(layer=inputs[0].layer, plain=inputs[0].plain, measures=measures)


def names_of(measures: type[Any]) -> tuple[str, ...]:
    """Return the names of the numbers of a class of measures, in order."""
    return tuple(each.name for each in fields(measures))


def _mean(kind: type[Any], measures: Iterable[Any]) -> Any:
    known = list(measures)
    return kind(**{name: statistics.fmean(getattr(each, name) for each in known) for name in names_of(kind)})
