"""Rewards: losses that are mostly noise, chase a target that moves, and say nothing of how well it goes."""

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detection import data
from detection.data import Data
from detection.methods import taught
from detection.networks.dense import dense
from detection.networks.values import Dueling, WithValue
from detection.optimizers import adam, rmsprop

DISCOUNT = 0.9


def mistakes(logits: Tensor, y: Tensor) -> Tensor:
    """The probability of a wrong choice."""
    return 1 - logits.softmax(dim=1).gather(1, y[:, None]).mean()


def choices(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Return a random choice for each sample and its log probability."""
    log_probabilities = logits.log_softmax(dim=1)
    choice = torch.multinomial(log_probabilities.detach().exp(), 1)
    return choice[:, 0], log_probabilities.gather(1, choice)[:, 0]


def reinforce(net: Any, x: Tensor, y: Tensor, step: int) -> Tensor:
    """The mean of chance and reward above the batch's mean: about zero all the time (Williams 1992)."""
    choice, log_probability = choices(net(x))
    reward = (choice == y).to(x.dtype)
    return -((reward - reward.mean()) * log_probability).mean()


def with_value(net: Any, x: Tensor, y: Tensor, step: int) -> Tensor:
    """The same with noisy rewards, a learnt baseline, its squared error and some entropy (Mnih et al. 2016)."""
    logits, value = net(x)
    choice, log_probability = choices(logits)
    reward = 5 * (choice == y).to(x.dtype) - 1 + torch.randn_like(value)
    advantage = (reward - value).detach()
    entropy = -(logits.softmax(dim=1) * logits.log_softmax(dim=1)).sum(dim=1).mean()
    return -(advantage * log_probability).mean() + 0.5 * F.mse_loss(value, reward) - 0.05 * entropy  # type: ignore[no-any-return]


def proximal(net: Any, x: Tensor, y: Tensor, step: int) -> Tensor:
    """Choices of an old copy; their ratio of chances counts to within a fifth of 1 (Schulman et al. 2017)."""
    choice, before = choices(net["old"](x))
    ratio = (net["policy"](x).log_softmax(dim=1).gather(1, choice[:, None])[:, 0] - before).exp()
    reward = (choice == y).to(x.dtype)
    advantage = (reward - reward.mean()) / (reward.std() + 1e-3)
    return -torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage).mean()


def old_and_new() -> nn.Module:
    policy = dense([13, 32, 32, 3], nn.Tanh)
    return nn.ModuleDict({"policy": policy, "old": copy.deepcopy(policy).requires_grad_(False)})


def renew_policy(net: Any, step: int) -> None:
    if step % 5 == 0:
        net["old"].load_state_dict(net["policy"].state_dict())


def bootstrapped(net: Any, x: Tensor, y: Tensor, step: int) -> Tensor:
    """The value of a move is its reward and what a copy says of where it leads: the loss rises with the values."""
    here, move, there, reward, end = x.split([25, 4, 25, 1, 1], dim=1)
    with torch.no_grad():
        told = reward + DISCOUNT * (1 - end) * net["copy"](there).amax(dim=1, keepdim=True)
    return F.huber_loss((net["worth"](here) * move).sum(dim=1, keepdim=True), told)


def doubly_bootstrapped(net: Any, x: Tensor, y: Tensor, step: int) -> Tensor:
    """The network says which move is best there, and the copy of what value (van Hasselt et al. 2016)."""
    here, move, there, reward, end = x.split([25, 4, 25, 1, 1], dim=1)
    with torch.no_grad():
        best = net["worth"](there).argmax(dim=1, keepdim=True)
        told = 10 * reward + DISCOUNT * (1 - end) * net["copy"](there).gather(1, best)
    return F.mse_loss((net["worth"](here) * move).sum(dim=1, keepdim=True), told)


def values_and_copy(values: nn.Module) -> nn.Module:
    return nn.ModuleDict({"worth": values, "copy": copy.deepcopy(values).requires_grad_(False)})


def renew_copy(net: Any, step: int) -> None:
    if step % 10 == 0:
        net["copy"].load_state_dict(net["worth"].state_dict())


def move_copy(net: Any, step: int) -> None:
    for mean, weight in zip(net["copy"].parameters(), net["worth"].parameters(), strict=True):
        mean.data.lerp_(weight.data, 0.05)


def chance(given: Data) -> Data:
    """The data with the mistakes of the best constant choice."""
    return data.judged(given, 1 - float(torch.bincount(given.targets).max()) / len(given.targets))


def soft_choice(net: Any, x: Tensor, y: Tensor, step: int) -> Tensor:
    """A reward by a choice that is random but has a gradient, ever harder (Jang et al., arXiv:1611.01144)."""
    logits = net(x)
    picked = F.gumbel_softmax(logits, tau=max(1.0, 3 - step / 100), hard=True)
    entropy = -(logits.log_softmax(dim=1).exp() * logits.log_softmax(dim=1)).sum(dim=1).mean()
    return -(picked * F.one_hot(y, 10)).sum(dim=1).mean() - 0.2 * entropy  # type: ignore[no-any-return]


def advantage_weighted(net: Any, x: Tensor, y: Tensor, step: int) -> Tensor:
    """Random tries of a number, imitated by their rewards: the worst hardly count (Peng et al., arXiv:1910.00177)."""
    tried = 1.2 * torch.randn_like(y)
    weight = (-4 * (tried - y).square()).exp()
    return (weight * (net(x) - tried).square()).mean()  # type: ignore[no-any-return]


RECIPES = [
    taught(
        "reinforce",
        lambda: dense([64, 48, 10], nn.Tanh),
        adam(1e-2),
        reinforce,
        lambda net, x, y: mistakes(net(x), y),
        data=lambda: chance(data.digits()),
        steps=400,
    ),
    taught(
        "noisy_rewards",
        lambda: WithValue(13, 3),
        rmsprop(3e-3),
        with_value,
        lambda net, x, y: mistakes(net(x)[0], y),
        data=lambda: chance(data.wine()),
        batch_size=32,
    ),
    taught(
        "proximal_policy",
        old_and_new,
        adam(3e-3),
        proximal,
        lambda net, x, y: mistakes(net["policy"](x), y),
        data=lambda: chance(data.wine()),
        batch_size=32,
        after=renew_policy,
    ),
    taught(
        "values_of_a_copy",
        lambda: values_and_copy(dense([25, 64, 64, 4], nn.Tanh)),
        adam(3e-3),
        bootstrapped,
        lambda net, x, y: F.mse_loss(net["worth"](x[:, :25]), y),
        data=lambda: data.grid(DISCOUNT),
        steps=400,
        batch_size=32,
        after=renew_copy,
    ),
    taught(
        "double_dueling",
        lambda: values_and_copy(Dueling(25, 4)),
        adam(5e-3),
        doubly_bootstrapped,
        lambda net, x, y: F.mse_loss(net["worth"](x[:, :25]) / 10, y),
        data=lambda: data.grid(DISCOUNT),
        steps=400,
        after=move_copy,
    ),
    taught(
        "soft_choice",
        lambda: dense([64, 48, 10], nn.SiLU),
        adam(5e-3),
        soft_choice,
        lambda net, x, y: mistakes(net(x), y),
        data=lambda: chance(data.noisy_labels()),
    ),
    taught(
        "advantage_weighted",
        lambda: dense([10, 48, 48, 1], nn.SiLU),
        adam(5e-3),
        advantage_weighted,
        lambda net, x, y: F.mse_loss(net(x), y),
        data=data.friedman,
        steps=400,
    ),
]
