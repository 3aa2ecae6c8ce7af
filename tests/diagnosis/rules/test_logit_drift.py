from dataclasses import replace

import pytest
import torch
from helpers.histories import falling, found, history, serious


def drifting(far, margin=lambda step: 5.0):
    made = history(loss=falling, steps=120)

    def seen(each):
        return replace(each, log_partition=far(each.step), logit_margin=margin(each.step))

    made.observations, made.first_observations = (
        [seen(each) for each in part] for part in (made.observations, made.first_observations)
    )
    return made


def test_logits_that_grow_together():
    finding = found(drifting(lambda step: 4.0 + step))["logit_drift", ""]
    assert str(finding.severity) == "warning"
    assert [each.value for each in finding.evidence] == [114.0, 28.5, 22.8]
    assert finding.evidence[0].steps == 31


def test_the_remedies_run_as_they_stand():
    first, second, _ = found(drifting(lambda step: 4.0 + step))["logit_drift", ""].remedy
    names = {"loss": torch.tensor(1.0), "logits": torch.full((3, 2), 10.0)}
    exec(first.code, names)
    assert names["loss"].item() == pytest.approx(1 + 1e-4 * (10 + torch.tensor(2.0).log().item()) ** 2)
    optimizer = torch.optim.AdamW([{"params": [torch.ones(1)]}, {"params": [torch.ones(1)]}], weight_decay=0.0)
    exec(second.code, {"optimizer": optimizer})
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.0, 0.1]


@pytest.mark.parametrize(
    ("far", "margin"),
    [
        (lambda step: 4.0 + step, lambda step: 4.0 + step),
        (lambda step: 4.0 + 0.4 * step, lambda step: 5.0),
        (lambda step: 90.0 + step, lambda step: 5.0),
        (lambda step: 300.0 - 2 * step if step else 4.0, lambda step: 5.0),
        (lambda step: float("nan"), lambda step: 5.0),
        (lambda step: None, lambda step: None),
    ],
    ids=["sure of its classes", "not far", "there from the start", "on its way back", "not a number", "no logits"],
)
def test_others_are_healthy(far, margin):
    assert serious(drifting(far, margin)) == set()
