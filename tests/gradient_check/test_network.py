import torch
from torch import nn

from lightning_gradtools.gradient_check import find_mixing, find_wrong_gradients, record_calls

BATCH = 6


class WrongSquare(torch.autograd.Function):
    """Squares; its gradient forgets the 2."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return grad * x


class Square(nn.Module):
    def __init__(self, wrong):
        super().__init__()
        self.wrong = wrong

    def forward(self, x):
        return WrongSquare.apply(x) if self.wrong else x * x


class Inner(nn.Module):
    def __init__(self, wrong):
        super().__init__()
        self.linear, self.act = nn.Linear(8, 8), Square(wrong)

    def forward(self, x):
        return x + 1e-3 * self.act(self.linear(x))  # so small that the loss alone would hide it


class Block(nn.Module):
    def __init__(self, wrong):
        super().__init__()
        self.inner, self.norm, self.drop = Inner(wrong), nn.LayerNorm(8), nn.Dropout(0.3)

    def forward(self, x):
        return self.drop(self.norm(self.inner(x)))


def network(*wrong):
    torch.manual_seed(0)
    blocks = [Block(w) for w in wrong]
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(inplace=True), *blocks, nn.Linear(8, 2)).double()
    return net, torch.randn(BATCH, 4, dtype=torch.float64)


def wrong_in(net, data, after=lambda out: out.square().mean(), **options):
    state = torch.get_rng_state()

    def loss():
        torch.set_rng_state(state)
        return after(net(data))

    generator = torch.Generator().manual_seed(0)
    found = find_wrong_gradients(loss, list(net.parameters()), record_calls(net, loss), generator=generator, **options)
    return [(each.name, each.kind) for each in found]


def test_a_right_network_passes_with_dropout_and_work_in_place():
    assert wrong_in(*network(False, False)) == []


def test_a_wrong_backward_three_modules_deep_is_named_and_nothing_around_it():
    assert wrong_in(*network(False, True)) == [("3.inner.act", "Square")]


def test_several_are_named_in_the_order_in_which_they_run():
    assert wrong_in(*network(True, False, True)) == [("2.inner.act", "Square"), ("4.inner.act", "Square")]


def test_a_wrong_gradient_outside_the_modules_is_found_in_the_loss():
    assert wrong_in(*network(False), after=lambda out: WrongSquare.apply(out).mean()) == [("", "the loss")]


def test_what_is_wrong_on_purpose_can_be_excluded():
    assert wrong_in(*network(True), exclude=["2.inner.act"]) == []


class Centre(nn.Module):
    def forward(self, x):
        return x - x.mean(0)


class Nested(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.first, self.layer = nn.Linear(4, 4), layer

    def forward(self, x):
        return self.layer(self.first(x)) + x


def mixing_in(net, *shape):
    net.double()
    data = torch.randn(*shape, dtype=torch.float64)
    calls = record_calls(net, lambda: net(data))
    return find_mixing(calls, shape[0])


def test_the_innermost_module_that_mixes_samples_is_named():
    torch.manual_seed(0)
    assert mixing_in(nn.Sequential(nn.Linear(4, 4), Nested(Centre())), BATCH, 4) == ("1.layer",)
    assert mixing_in(nn.Sequential(nn.Linear(4, 4), Nested(nn.LayerNorm(4))), BATCH, 4) == ()


def test_batch_normalisation_in_training_is_recognised_and_left_in_training():
    torch.manual_seed(0)
    norm = nn.BatchNorm1d(4)
    assert mixing_in(nn.Sequential(nn.Linear(4, 4), norm, nn.Dropout(0.5)), BATCH, 4) == ()
    assert norm.training
    assert mixing_in(nn.Sequential(norm, Nested(Centre())), BATCH, 4) == ("1.layer",)


class Attention(nn.Module):
    """With the batch in the first dimension or, by mistake, attending over it."""

    def __init__(self, batch_first):
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=batch_first)

    def forward(self, x):
        return self.attention(x, x, x, need_weights=False)[0]


def test_attention_over_the_batch_is_found():
    torch.manual_seed(0)
    assert mixing_in(Attention(batch_first=True), BATCH, 5, 8) == ()
    assert mixing_in(Attention(batch_first=False), BATCH, 5, 8) == ("attention",)


class TimeFirst(nn.Module):
    """Right, though inside it the time comes first and is as long as the batch."""

    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2)

    def forward(self, x):
        x = x.transpose(0, 1)
        return self.attention(x, x, x, need_weights=False)[0].transpose(0, 1)


def test_what_is_inside_of_a_module_that_keeps_samples_apart_is_not_suspected():
    assert mixing_in(TimeFirst(), BATCH, BATCH, 8) == ()


def test_two_samples_show_nothing():
    assert mixing_in(Nested(Centre()), 2, 4) == ()


def test_calls_nest_as_modules_do_and_hooks_are_gone():
    net, data = network(False)
    calls = record_calls(net, lambda: net(data))
    assert [call.name for call in calls] == [""]
    assert [call.name for call in calls[0].children] == ["0", "1", "2", "3"]
    assert [call.name for call in calls[0].children[2].children] == ["2.inner", "2.norm", "2.drop"]
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())
