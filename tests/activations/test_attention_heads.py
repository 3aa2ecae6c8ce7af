"""Against the definition, with torch's own attention as the judge of what the scores are."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.distributions import Categorical

from lightning_gradtools.activations import StepTap
from lightning_gradtools.activations.attention_heads import head_sharpness, sampled_scores


def by_definition(scores):
    """[2, heads] of scores [sequences, heads, queries, keys] none of which is masked."""
    entropy = Categorical(logits=scores).entropy() / math.log(scores.shape[-1])
    return torch.stack([scores.amax((0, 2, 3)), entropy.mean((0, 2))])


def test_largest_logit_and_entropy_of_each_head():
    torch.manual_seed(0)
    scores = torch.randn(3, 2, 5, 7) * torch.tensor([1.0, 20.0])[:, None, None]
    torch.testing.assert_close(head_sharpness(scores, scores.softmax(-1)), by_definition(scores), rtol=1e-4, atol=1e-5)


def test_equal_weights_have_entropy_one_and_a_single_choice_zero():
    scores = torch.stack([torch.zeros(4, 6), 1e3 * torch.eye(4, 6)]).unsqueeze(0)
    torch.testing.assert_close(head_sharpness(scores, scores.softmax(-1)), torch.tensor([[0.0, 1e3], [1.0, 0.0]]))


def test_masked_keys_and_rows_without_a_choice_do_not_count():
    scores = torch.zeros(1, 1, 4, 4).masked_fill(torch.ones(4, 4, dtype=torch.bool).triu(1), -torch.inf)
    torch.testing.assert_close(head_sharpness(scores, scores.softmax(-1)), torch.tensor([[0.0], [1.0]]))
    alone = torch.full((1, 1, 2, 3), -torch.inf)
    alone[..., 0] = 5.0
    torch.testing.assert_close(head_sharpness(alone, alone.softmax(-1)), torch.tensor([[5.0], [1.0]]))


MASK = torch.rand(6, 6, generator=torch.Generator().manual_seed(0)) < 0.7
MASK[:, 0] = True


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"is_causal": True},
        {"attn_mask": MASK},
        {"attn_mask": 3 * MASK.float()},
        {"scale": 2.0},
        {"enable_gqa": True},
    ],
    ids=["plain", "causal", "boolean mask", "added mask", "scale", "grouped queries"],
)
def test_scores_give_what_torch_s_attention_gives(settings):
    torch.manual_seed(0)
    heads = 2 if "enable_gqa" in settings else 4
    q, k, v = torch.randn(3, 4, 6, 8), torch.randn(3, heads, 6, 8), torch.randn(3, heads, 6, 8)
    scores = sampled_scores((q, k, v), settings)
    out = scores.softmax(-1) @ v.repeat_interleave(4 // heads, 1)
    torch.testing.assert_close(out, F.scaled_dot_product_attention(q, k, v, **settings))


def test_of_long_ones_some_queries_are_looked_at_with_all_their_keys():
    q = torch.randn(9, 2, 130, 8)
    scores = sampled_scores((q, q, q), {"is_causal": True})
    assert scores.shape == (4, 2, 44, 130)
    assert (scores > -math.inf).sum(-1)[0, 0].tolist() == [3 * i + 1 for i in range(44)]


class Attention(nn.Module):
    """Several ways to write one attention."""

    def __init__(self, way):
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(8, 8) for _ in range(3))
        self.way, self.soft = way, nn.Softmax(-1)

    def forward(self, x):
        q, k, v = (f(x).unflatten(-1, (2, 4)).transpose(1, 2) for f in (self.q, self.k, self.v))
        if self.way == "fused":
            return F.scaled_dot_product_attention(q, k, v).sum()
        scores = q @ k.transpose(2, 3) / 2
        weights = self.soft(scores) if self.way == "module" else scores.softmax(-1)
        return (weights @ v).sum()


@pytest.mark.parametrize("way", ["fused", "module", "function"])
def test_however_it_is_written_its_heads_are_seen(way):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 8), Attention(way))
    x = torch.randn(4, 6, 8)
    tap = StepTap(dict(net.named_modules()))
    with tap:
        net(x)
    h = net[0](x)
    q, k = (f(h).unflatten(-1, (2, 4)).transpose(1, 2) for f in (net[1].q, net[1].k))
    (found,) = tap.heads["1"]
    torch.testing.assert_close(found, by_definition(q @ k.transpose(2, 3) / 2), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("way", ["fused", "function", "torch's own"])
def test_under_autocast_they_are_seen_in_single_precision(way, dtype):
    torch.manual_seed(0)
    net = nn.ModuleDict({"a": nn.MultiheadAttention(8, 2) if way == "torch's own" else Attention(way)})
    x = torch.randn(4, 6, 8)
    tap = StepTap(dict(net.named_modules()))
    with tap, torch.autocast("cpu", dtype):
        net.a(x, x, x) if way == "torch's own" else net.a(x)
    (found,) = tap.heads["a"]
    assert found.dtype == torch.float32
    assert ((found[1] > 0.5) & (found[1] <= 1.001)).all()


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("sizes", [{}, {"kdim": 5}], ids=["one projection", "three projections"])
def test_the_heads_of_torch_s_own_module_are_seen(sizes, masked):
    torch.manual_seed(0)
    layer = nn.ModuleDict({"attention": nn.MultiheadAttention(8, 2, batch_first=True, **sizes)})
    x, key = torch.randn(3, 6, 8), torch.randn(3, 6, sizes.get("kdim", 8))
    settings = {"attn_mask": ~MASK, "key_padding_mask": torch.tensor([[False] * 5 + [True]] * 3)} if masked else {}
    tap = StepTap(dict(layer.named_modules()))
    with tap:
        _, weights = layer.attention(x, key, x, average_attn_weights=False, **settings)
    keys = (weights > 0).sum(-1)
    entropy = Categorical(probs=weights).entropy() / keys.clamp(min=2).log()
    expected = (entropy * (keys > 1)).sum((0, 2)) / (keys > 1).sum((0, 2))
    (found,) = tap.heads["attention"]
    torch.testing.assert_close(found[1], expected.detach(), rtol=1e-4, atol=1e-5)
