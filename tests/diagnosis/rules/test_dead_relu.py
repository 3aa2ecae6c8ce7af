import pytest
from helpers.histories import falling, found, history

from lightning_gradtools.diagnosis.observation import ActivationObservation


@pytest.mark.parametrize(
    ("dead", "severity"),
    [(5, None), (20, "info"), (50, "info"), (51, "warning"), (94, "warning"), (95, "critical")],
)
def test_dead_units_by_their_share(dead, severity):
    made = history(loss=falling, activations=lambda s: (ActivationObservation("a", "relu", 100, dead),))
    finding = found(made).get(("dead_relu", "a"))
    assert (finding and str(finding.severity)) == severity


def test_silent_on_one_batch_is_not_dead():
    made = history(loss=falling, activations=lambda s: (ActivationObservation("a", "relu", 100, 0, silent=99),))
    assert not found(made)
