"""The curvature of a loss, before and after training: eigenvalues, trace, and how far the learning rate may go."""

import torch
from sklearn.datasets import load_digits
from torch import nn

from lightning_gradtools.curvature import hessian_spectrum

images, labels = load_digits(return_X_y=True)
x, y = torch.tensor(images / 16, dtype=torch.float32), torch.tensor(labels)
torch.manual_seed(0)
net = nn.Sequential(nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 10))
optimizer = torch.optim.SGD(net.parameters(), lr=0.5)


def loss() -> torch.Tensor:
    """Return the loss of a fixed batch."""
    return nn.functional.cross_entropy(net(x[:256]), y[:256])


for steps in (0, 200):
    for _ in range(steps):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
    found = hessian_spectrum(loss, net.parameters(), top_k=3, trace=True, generator=torch.Generator().manual_seed(0))
    assert found.trace is not None  # it was asked for
    values = ", ".join(
        f"{value:.3f} ± {bound:.0e}"
        for value, bound in zip(found.eigenvalues.tolist(), found.bounds.tolist(), strict=True)
    )
    print(f"after {steps} steps: loss {loss().item():.3f}, top eigenvalues {values}")
    print(
        f"  trace {found.trace.value:.2f} ± {found.trace.standard_error:.2f}, {found.products} products, {found.method}"
    )
    print(f"  gradient descent is stable below a learning rate of {2 / float(found.eigenvalues.max()):.3f}")
