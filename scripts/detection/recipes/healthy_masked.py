"""What was hidden is to be told; members of a set that are not there."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detection import data
from detection.data import Data
from detection.methods import alone, taught
from detection.networks.dense import dense
from detection.networks.masked import Cloze, DeepSet, Hidden, SetEncoder
from detection.optimizers import adam, adamw
from detection.recipe import numbers
from detection.schedules import cosine

SEEN = 5  # of eight rows


def hidden_rows(net: Any, x: Tensor, y: Tensor, step: int) -> Tensor:
    order = torch.rand(len(x), 8).argsort(dim=1)
    rows = x.view(-1, 8, 8).gather(1, order[:, :, None].expand(-1, -1, 8))
    return F.mse_loss(net(rows[:, :SEEN], order), rows[:, SEEN:])


def cloze(net: Any, x: Tensor, y: Tensor, step: int) -> Tensor:
    """A fifth of the characters is hidden; the others' outputs count for nothing (Devlin et al., arXiv:1810.04805)."""
    hidden = torch.rand(x.shape) < 0.2
    hidden[:, 0] = True
    output = net(x.masked_fill(hidden, data.VOCABULARY))
    return F.cross_entropy(output[hidden], x[hidden])


def denoised(net: Any, x: Tensor, y: Tensor, step: int) -> Tensor:
    return F.mse_loss(net(x * (torch.rand_like(x) < 0.5)), x)


def hidden_features(net: Any, x: Tensor, y: Tensor, step: int) -> Tensor:
    """A third of a wine's numbers is hidden, and told so; they alone count."""
    hidden = (torch.rand_like(x) < 0.33).to(x.dtype)
    told = net(torch.cat([x * (1 - hidden), hidden], dim=1))
    return ((told - x).square() * hidden).sum() / hidden.sum().clamp(min=1)  # type: ignore[no-any-return]


def text_alone() -> Data:
    """Windows of characters with the entropy of a character."""
    given = data.short_text()
    return data.make(given.inputs, given.inputs)


RECIPES = [
    taught(
        "hidden_rows",
        Hidden,
        adamw(1e-2),
        hidden_rows,
        lambda net, x, y: hidden_rows(net, x, y, 0),
        data=lambda: data.first(data.digit_reconstruction(), 256),
        batch_size=32,
        steps=250,
        schedule=cosine(250, warmup=25),
    ),
    taught(
        "cloze",
        lambda: Cloze(data.VOCABULARY, 32),
        adamw(5e-3),
        cloze,
        lambda net, x, y: cloze(net, x, y, 0),
        data=text_alone,
        batch_size=24,
        steps=200,
    ),
    taught(
        "half_erased",
        lambda: dense([64, 96, 64], nn.GELU),
        adam(3e-3),
        denoised,
        lambda net, x, y: denoised(net, x, y, 0),
        data=data.digit_reconstruction,
    ),
    taught(
        "hidden_features",
        lambda: dense([26, 48, 48, 13], nn.SiLU),
        adam(5e-3),
        hidden_features,
        lambda net, x, y: hidden_features(net, x, y, 0),
        data=data.wine_code,
        batch_size=16,
    ),
    alone(
        "set_with_missing",
        lambda: SetEncoder(3),
        adam(3e-3),
        data=lambda: data.first(data.sets(), 200),
        make=numbers,
        batch_size=32,
        steps=200,
    ),
    alone("deep_set", lambda: DeepSet(3), adam(5e-3), data=data.sets, make=numbers, objective=F.mse_loss),
    alone(
        "probabilities_of_characters",
        lambda: dense([data.VOCABULARY, 32, data.VOCABULARY], nn.Tanh),
        adam(1e-2),
        data=data.successors,
        batch_size=24,
        make=numbers,
        loss=lambda o, t: F.kl_div(o.log_softmax(dim=1), t, reduction="batchmean"),
        objective=lambda o, t: F.kl_div(o.log_softmax(dim=1), t, reduction="batchmean"),
    ),
]
