import pytest
import torch
from helpers.clipping_cases import trained
from helpers.runs import GradientSpy, Regression, fit, reference_norm

from lightning_gradtools.arguments import ArgumentError
from lightning_gradtools.callbacks import GradientClipping


def test_excluded_parameters_are_neither_counted_nor_clipped():
    spy = GradientSpy()
    trained(spy, GradientClipping(0.1, exclude=["bias"]))
    for before, after in zip(spy.before, spy.after, strict=True):
        assert all(torch.equal(before[name], after[name]) for name in before if "bias" in name)
        kept = {name: g for name, g in after.items() if "bias" not in name}
        assert reference_norm(kept) == pytest.approx(0.1, rel=1e-4)


def test_overrides_clip_a_group_by_itself_and_the_rest_together():
    class Grouped(Regression):
        def configure_optimizers(self):
            layers = [self.net[0], self.net[2], self.net[4]]
            return torch.optim.SGD([{"params": layer.parameters()} for layer in layers], lr=1e-3)

    spy = GradientSpy()
    fit(Grouped(), spy, GradientClipping(0.03, overrides={"0/2": 0.01, "0/0": None}))
    for before, after in zip(spy.before, spy.after, strict=True):
        norm = {i: reference_norm({k: v for k, v in after.items() if f"net.{i}" in k}) for i in (2, 4)}
        assert norm == {2: pytest.approx(0.03, rel=1e-4), 4: pytest.approx(0.01, rel=1e-4)}
        assert all(torch.equal(before[name], after[name]) for name in before if "net.0" in name)


def test_an_exclusion_of_nothing_is_refused_with_what_there_is():
    with pytest.raises(ArgumentError, match=r"^exclude='embeding': must be found .* net.0.weight, net.0.bias, net.2"):
        fit(Regression(), GradientClipping(1.0, exclude="embeding"))


def test_an_exclusion_of_everything_is_refused():
    with pytest.raises(ArgumentError, match=r"^exclude=\['weight', 'bias'\]: must leave a parameter to clip"):
        fit(Regression(), GradientClipping(1.0, exclude=["weight", "bias"]))


def test_what_an_optimizer_has_from_elsewhere_is_left_to_clip():
    extra = torch.nn.Parameter(torch.ones(3))

    class Learned(Regression):
        def training_step(self, batch, batch_idx):
            return super().training_step(batch, batch_idx) + (5 * extra).sum()

        def configure_optimizers(self):
            return torch.optim.SGD([*self.parameters(), extra], lr=0.0)

    fit(Learned(), GradientClipping(0.1, exclude="net"))
    assert extra.grad.norm().item() == pytest.approx(0.1, rel=1e-3)
    with pytest.raises(ArgumentError, match="must leave a parameter to clip"):
        fit(Learned(), GradientClipping(0.1, exclude=".*"))


def test_a_part_that_no_optimizer_has_yet_may_be_excluded():
    class HeadOnly(Regression):
        def configure_optimizers(self):
            return torch.optim.SGD(self.net[4].parameters(), lr=0.1)

    spy = GradientSpy()
    fit(HeadOnly(), spy, GradientClipping(0.01, exclude=r"net\.0"))
    for after in spy.after:
        assert reference_norm({k: v for k, v in after.items() if "net.4" in k}) == pytest.approx(0.01, rel=1e-3)
