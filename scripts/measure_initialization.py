"""Print the gains of a deep stack at initialisation, and what GradientCheck costs and finds on a digits CNN.

Usage: python scripts/measure_initialization.py
"""

import time
from functools import partial

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lightning_gradtools.gradient_check import find_mixing, find_wrong_gradients, record_calls
from lightning_gradtools.initialization import SCHEMES, initialize_, lsuv_, trace_signal_path

DEPTH, WIDTH, BATCH, NETWORKS = 30, 256, 256, 8


def gains(activation: type[nn.Module], scheme: str | None, seed: int) -> tuple[Tensor, Tensor]:
    """Return the logarithms of the forward and backward gain of each block, (DEPTH - 1,) each.

    The gain is by how much the root mean square of the pre-activations, and of the gradient in them, grows.
    """
    torch.manual_seed(seed)
    net = nn.Sequential(*(layer for _ in range(DEPTH) for layer in (nn.Linear(WIDTH, WIDTH), activation())))
    data = torch.randn(BATCH, WIDTH)
    if scheme is not None:
        done = initialize_(net, trace_signal_path(net, partial(net, data)), scheme=scheme)
        if scheme == "lsuv":
            lsuv_(net, partial(net, data), [layer.name for layer in done.layers])
    values = []
    for layer in net:
        data = layer(data)
        if isinstance(layer, nn.Linear):
            data.retain_grad()
            values.append(data)
    (data * torch.randn_like(data)).sum().backward()
    forward = torch.stack([value.detach().square().mean().log() / 2 for value in values])
    backward = torch.stack([value.grad.square().mean().log() / 2 for value in values])
    return forward.diff(), -backward.diff()


def print_gains() -> None:
    """Print the least and greatest gain of a block, as geometric mean over networks and for one network."""
    print(f"gain per block of {DEPTH} x (Linear({WIDTH}) + activation), {NETWORKS} networks: mean (one network)")
    print(f"{'':17}{'forward':>34}{'backward':>34}")
    for activation in (nn.ReLU, nn.Tanh):
        for scheme in (None, *SCHEMES):
            runs = [gains(activation, scheme, seed) for seed in range(NETWORKS)]
            cells = []
            for each in zip(*runs, strict=True):
                one = torch.stack(each).exp()
                mean = torch.stack(each).mean(0).exp()
                cells.append(f"{mean.min():.3f} to {mean.max():.3f} ({one.min():.3f} to {one.max():.3f})")
            print(f"{activation.__name__:5}{scheme or 'torch default':14}" + "".join(f"{c:>34}" for c in cells))


class _Wrong(torch.autograd.Function):
    """tanh with the gradient 1 - |y| in the place of 1 - y^2."""

    @staticmethod
    def forward(ctx, x):  # type: ignore[no-untyped-def]
        """Return tanh."""
        y = x.tanh()
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        """Return the wrong gradient."""
        return grad * (1 - ctx.saved_tensors[0].abs())


class _WrongTanh(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = _Wrong.apply(x)
        return y


def print_check(activation: nn.Module) -> None:
    """Check a digits CNN, an activation of it three modules deep, and print what is found in what time."""
    torch.manual_seed(0)
    block = nn.Sequential(nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), activation), nn.BatchNorm2d(16))
    net = nn.Sequential(
        nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU()),
        block,
        nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        nn.Sequential(nn.Flatten(), nn.Linear(128, 64), nn.ReLU(), nn.Dropout(0.2), nn.Linear(64, 10)),
    ).double()
    images, labels = load_digits(return_X_y=True)
    data, target = torch.tensor(images[:64] / 16).reshape(-1, 1, 8, 8), torch.tensor(labels[:64])

    def loss() -> Tensor:
        torch.manual_seed(0)
        return cross_entropy(net(data), target)

    start = time.perf_counter()
    calls = record_calls(net, loss)
    generator = torch.Generator().manual_seed(0)
    wrong = find_wrong_gradients(loss, list(net.parameters()), calls, generator=generator)
    mixing = find_mixing(calls, len(data))
    seconds = time.perf_counter() - start
    found = ", ".join(f"{each.name} ({each.kind}), off by {each.check.relative_error:.2g}" for each in wrong)
    results = f"wrong: {found or 'none'}; mixing samples: {', '.join(mixing) or 'none'}; {seconds:.2f} s"
    print(f"digits CNN with {type(activation).__name__}: {results}")


if __name__ == "__main__":
    print_gains()
    for activation in (nn.ReLU(), nn.Tanh(), _WrongTanh()):
        print_check(activation)
