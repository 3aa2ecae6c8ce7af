import math

import pytest
import torch
import torch.nn.functional as F

from lightning_gradtools.arguments import ArgumentError
from lightning_gradtools.tasks import GPT

VOCAB, CONTEXT = 61, 16


@pytest.fixture
def gpt():
    torch.manual_seed(0)
    return GPT(VOCAB, CONTEXT, depth=3, width=48, heads=4)


def tokens(batch=2, time=CONTEXT):
    return torch.randint(VOCAB, (batch, time), generator=torch.Generator().manual_seed(1))


def test_an_output_depends_on_every_earlier_token_and_on_no_later_one(gpt):
    # The gradient of position t with respect to later embedded inputs is exactly zero.
    embedded = []
    gpt.token_embedding.register_forward_hook(lambda m, i, output: embedded.append(output))
    logits = gpt(tokens(1))
    for t in range(CONTEXT):
        (gradient,) = torch.autograd.grad(logits[0, t].square().sum(), embedded[0], retain_graph=True)
        reached = gradient[0].abs().amax(dim=-1) > 0
        assert reached.tolist() == [place <= t for place in range(CONTEXT)]


def test_attention_is_softmax_of_scaled_products(gpt):
    attention = gpt.blocks[0].attention
    x = torch.randn(2, 5, 48)
    q, k, v = (part.view(2, 5, 4, 12).transpose(1, 2) for part in attention.qkv(x).split(48, dim=-1))
    scores = (q @ k.mT / math.sqrt(12)).masked_fill(torch.ones(5, 5).triu(1).bool(), -math.inf)
    mixed = (scores.softmax(-1) @ v).transpose(1, 2).reshape(2, 5, 48)
    torch.testing.assert_close(attention(x), attention.output(mixed))


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(("depth", "width"), [(1, 8), (3, 32)])
def test_parameter_count(depth, width, tied):
    network = GPT(VOCAB, CONTEXT, depth=depth, width=width, heads=2, tied=tied)
    expected = depth * (12 * width**2 + 13 * width) + (VOCAB + CONTEXT + 2) * width
    assert sum(p.numel() for p in network.parameters()) == expected + (0 if tied else VOCAB * width)


def test_the_loss_starts_near_that_of_a_uniform_guess(gpt):
    targets = torch.randint(VOCAB, (64, CONTEXT), generator=torch.Generator().manual_seed(2))
    loss = F.cross_entropy(gpt(tokens(64)).flatten(0, 1), targets.flatten())
    assert loss.item() == pytest.approx(math.log(VOCAB), rel=0.02)


def test_initial_deviations(gpt):
    parameters = dict(gpt.named_parameters())
    for name, parameter in parameters.items():
        if name.endswith("bias"):
            assert not parameter.any()
        elif "norm" not in name:
            residual = name.endswith(("attention.output.weight", "mlp.contract.weight"))
            expected = 0.02 / math.sqrt(6) if residual else 0.02
            error = 5 / math.sqrt(2 * parameter.numel())  # five standard errors
            assert parameter.std().item() == pytest.approx(expected, rel=error), name


def test_tied_weights_are_one_parameter(gpt):
    assert gpt.output.weight is gpt.token_embedding.weight
    assert "output.weight" not in dict(gpt.named_parameters())
    assert GPT(VOCAB, CONTEXT, tied=False).output.weight.shape == (VOCAB, 128)


def test_dropout_is_off_in_evaluation_and_on_in_training():
    network = GPT(VOCAB, CONTEXT, depth=1, width=16, heads=2, dropout=0.5)
    x = tokens()
    assert not torch.equal(network(x), network(x))
    network.eval()
    assert torch.equal(network(x), network(x))


def test_shorter_sequences_run_and_longer_ones_do_not(gpt):
    x = tokens()
    torch.testing.assert_close(gpt(x[:, :5]), gpt(x)[:, :5])
    with pytest.raises(ArgumentError, match=r"^context_length=16: the sequence has 17 tokens"):
        gpt(tokens(time=17))


def test_it_compiles_to_one_graph(gpt):
    x = tokens()
    compiled = torch.compile(gpt, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), gpt(x))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"heads": 3}, "heads=3: must divide width=128"),
        ({"vocab_size": 0}, "vocab_size=0: must be an integer >= 1"),
        ({"depth": 0}, "depth=0: must be an integer >= 1"),
        ({"dropout": 1}, "dropout=1: must be a finite number >= 0 and < 1"),
        ({"mlp_ratio": 0.001}, "mlp_ratio=0.001: leaves no hidden unit"),
        ({"activation": "gleu"}, "activation='gleu': .*did you mean"),
        ({"init_std": -1}, "init_std=-1: must be"),
    ],
)
def test_bad_arguments(bad, message):
    with pytest.raises(ArgumentError, match=f"^{message}"):
        GPT(**{"vocab_size": VOCAB, **bad})
