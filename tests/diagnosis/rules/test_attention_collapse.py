from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from helpers.histories import falling, found, history, serious

from lightning_gradtools.diagnosis.observation import AttentionObservation

NAME = "blocks.0.attention"


def attending(logits, entropies=lambda step: (0.05, 0.9), **settings):
    """A run whose one attention has these largest logits and entropies of two heads, step by step."""
    made = history(steps=100, every=10, **settings)

    def seen(each):
        return (AttentionObservation(NAME, logits(each.step), entropies(each.step)),)

    made.observations = [replace(each, attention=seen(each)) for each in made.observations]
    made.first_observations = [replace(each, attention=seen(each)) for each in made.first_observations]
    return made


def grown(step):
    return (0.5 + step, 1.0)


def collapsed(made):
    return {layer: each for (kind, layer), each in found(made).items() if kind == "attention_collapse"}


def test_logits_that_grow_in_sharp_rows_while_nothing_is_learned():
    (finding,) = collapsed(attending(grown)).values()
    assert (str(finding.severity), finding.layer) == ("warning", NAME)
    assert "head 0 of 2" in finding.message
    logit, entropy, share = finding.evidence
    assert (logit.value, entropy.value, share.value) == (90.5, 0.05, 0.5)
    assert logit.steps == 71  # from step 20 on
    assert "rms_norm" in finding.remedy[0].code


def test_the_first_remedy_runs_as_it_stands_and_bounds_the_logits():
    (finding,) = collapsed(attending(grown)).values()
    names = {"F": F, "q": 100 * torch.randn(2, 3, 5, 16), "k": 100 * torch.randn(2, 3, 5, 16)}
    exec(finding.remedy[0].code, names)
    logits = names["q"] @ names["k"].transpose(-2, -1) / 16**0.5
    assert logits.abs().max() <= 16**0.5 + 1e-4


def test_sharp_heads_of_a_run_that_learns_are_healthy():
    assert collapsed(attending(grown, loss=falling)) == {}


def test_where_the_baseline_is_not_known_the_loss_must_not_have_moved_at_all():
    """An ELBO falls from 326 to 301 and has then learned all there is."""

    def settled(step):
        return 301 + 25 * 0.7**step

    (finding,) = collapsed(attending(grown, loss=lambda step: 300.0)).values()
    assert str(finding.severity) == "warning"
    assert collapsed(attending(grown, loss=settled)) == {}
    (finding,) = collapsed(attending(grown, loss=settled, skill=lambda step: 0.04)).values()
    assert str(finding.severity) == "warning"


def test_logits_beyond_all_bounds_are_worth_an_info_while_it_learns():
    (finding,) = collapsed(attending(lambda step: (1.0 + 4 * step, 1.0), loss=falling)).values()
    assert str(finding.severity) == "info"


@pytest.mark.parametrize(
    "settings",
    [
        {"logits": lambda step: (0.5, 0.5)},
        {"logits": lambda step: (40.0 + step, 1.0)},
        {"logits": grown, "entropies": lambda step: (0.8, 0.8)},
        {"logits": lambda step: (90.0 if step == 90 else 0.5, 1.0)},
        {"logits": lambda step: (float("nan"), float("nan"))},
    ],
    ids=["sharp from small logits", "large from the start", "rows that are not sharp", "once", "not a number"],
)
def test_none_of_them_alone_is_one(settings):
    assert collapsed(attending(**settings)) == {}


def test_it_is_the_cause_of_the_stall_that_follows():
    told = serious(attending(grown, skill=lambda step: 0.01))
    assert {("attention_collapse", NAME), ("stalled_training", "")} <= told
