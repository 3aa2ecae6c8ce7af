"""Losses whose Hessian is known."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn


def quadratic(eigenvalues: Sequence[float], seed: int = 0) -> tuple[Callable[[], Tensor], list[nn.Parameter], Tensor]:
    """Return ½ wᵀAw as a loss, w in two parameters, and A (n, n), float64, with these eigenvalues."""
    generator = torch.Generator().manual_seed(seed)
    n = len(eigenvalues)
    axes, _ = torch.linalg.qr(torch.randn(n, n, generator=generator, dtype=torch.float64))
    matrix = axes @ torch.diag(torch.tensor(eigenvalues, dtype=torch.float64)) @ axes.T
    matrix = (matrix + matrix.T) / 2
    point = torch.randn(n, generator=generator, dtype=torch.float64)
    parameters = [nn.Parameter(point[: n // 2].clone()), nn.Parameter(point[n // 2 :].clone())]

    def loss() -> Tensor:
        w = torch.cat(parameters)
        return w @ matrix @ w / 2

    return loss, parameters, matrix


def network(dtype: torch.dtype = torch.float64, seed: int = 0) -> tuple[Callable[[], Tensor], nn.Module]:
    """Return the cross-entropy of a tanh network of 67 parameters on fixed data, and the network."""
    generator = torch.Generator().manual_seed(seed)
    net = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3, bias=False), nn.Tanh()).to(dtype)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(0.8 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    x = torch.randn(20, 5, generator=generator, dtype=torch.float64).to(dtype)
    y = torch.randint(3, (20,), generator=generator)
    return lambda: nn.functional.cross_entropy(net(x), y), net


def dense_hessian(loss: Callable[[], Tensor], parameters: Sequence[Tensor]) -> Tensor:
    """Return the Hessian (n, n) row by row: an oracle that shares no code with the library."""
    gradients = torch.autograd.grad(loss(), parameters, create_graph=True)
    flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
    rows = [torch.autograd.grad(entry, parameters, retain_graph=True) for entry in flat]
    return torch.stack([torch.cat([part.reshape(-1) for part in row]) for row in rows])


class OnceSine(torch.autograd.Function):
    """The sine, by a backward pass that cannot be differentiated: as many written by hand are."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):
        return gradient * ctx.saved_tensors[0].cos()
