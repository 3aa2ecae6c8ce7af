import pytest
from helpers.histories import falling, found, history

from lightning_gradtools.diagnosis.contracts import Contracts, FirstInput, InputMeasures


def made(prints, places=(0, 1, 2, 4), sized=True):
    run = history(loss=falling)
    run.contracts = [
        Contracts(step=place, batch_index=place, fingerprints=each, sized=sized)
        for place, each in zip(places, prints, strict=True)
    ]
    return run


def severity(run, layer=""):
    finding = found(run).get(("repeated_batch", layer))
    return None if finding is None else str(finding.severity)


SAME = (1.5, -2.5, 3.5)


@pytest.mark.parametrize(
    ("prints", "settings", "told"),
    [
        ([SAME] * 4, {}, "warning"),
        ([SAME] * 4, {"sized": False}, "info"),
        ([SAME] * 3, {"places": (0, 1, 2)}, None),
        ([SAME] * 4, {"places": (0, 0, 0, 0)}, None),  # an epoch of one batch
        ([SAME] * 4, {"places": (0, 1, 0, 1)}, "warning"),  # of two, each seen twice
        ([SAME, (9.0, 9.0, 9.0)] * 2, {"places": (0, 1, 0, 1)}, None),
        ([SAME, SAME, SAME, (1.5, -2.5, 3.6)], {}, None),  # other targets
        ([SAME, SAME, SAME, (1.5, -2.5)], {}, None),
        ([SAME, SAME, SAME, ()], {}, None),
        ([()] * 4, {}, None),
        ([(float("nan"),)] * 4, {}, None),
        ([SAME, (1.5 + 1e-7, -2.5, 3.5), SAME, SAME], {}, "warning"),  # rounded otherwise
    ],
)
def test_the_same_batch_at_several_places_of_an_epoch(prints, settings, told):
    assert severity(made(prints, **settings)) == told


@pytest.mark.parametrize(("alike", "samples", "told"), [(1.0, 4, True), (0.5, 32, False), (1.0, 3, False)])
def test_samples_that_are_all_alike(alike, samples, told):
    for run, said in ((history(loss=falling), "info"), (history(), "warning")):
        measures = InputMeasures(samples=samples, alike=alike)
        run.contracts = [Contracts(step=0, input=FirstInput(layer="0", plain=True, measures=measures))]
        assert severity(run, "0") == (said if told else None)
