"""Densities, noise to be taken away, codes: losses that rise with a weight, are negative, or are mostly noise."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detection import data
from detection.data import Data
from detection.methods import alone, taught
from detection.networks.dense import dense
from detection.networks.densities import Flow, Mixture, Quantised, Timed, autoregressive
from detection.networks.generative import Variational
from detection.optimizers import adam, adamw
from detection.schedules import cosine


def rising(step: int) -> float:
    """The weight of the code's distance: 0 at first, 1 from step 200."""
    return min(1.0, step / 200)


def going_round(step: int) -> float:
    """The same, four times anew (Fu et al., arXiv:1903.10145)."""
    return min(1.0, (step % 80) / 40)


def bound(net: Any, x: Tensor, weight: float) -> tuple[Tensor, Tensor]:
    """Return a Bernoulli likelihood of all pixels, summed, and the weighted distance of the code."""
    output = net(x)
    mean, log_variance = output[:, 64:].chunk(2, dim=1)
    apart = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(dim=1).mean()
    return F.binary_cross_entropy_with_logits(output[:, :64], x, reduction="sum") / len(x), weight * apart


def elbo(net: Any, x: Tensor, y: Tensor, step: int) -> Tensor:
    return sum(bound(net, x, rising(step)), x.new_zeros(()))


def elbo_in_cycles(net: Any, x: Tensor, y: Tensor, step: int) -> Tensor:
    return sum(bound(net, x, going_round(step)), x.new_zeros(()))


def normal_elbo(net: Any, x: Tensor, y: Tensor, step: int) -> Tensor:
    """Pixels with a deviation of 0.1: the likelihood's logarithm is above zero once the image is right."""
    output = net(x)
    mean, log_variance = output[:, 64:].chunk(2, dim=1)
    apart = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(dim=1).mean()
    likelihood = 50 * (output[:, :64] - x).square() + math.log(0.1 * math.sqrt(2 * math.pi))
    return likelihood.sum(dim=1).mean() + 2 * rising(step) * apart  # type: ignore[no-any-return]


def redrawn(net: Any, x: Tensor, y: Tensor) -> Tensor:
    return F.mse_loss(net(x)[:, :64].sigmoid(), x)


def noised(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return points mixed with noise by a random time, the time and the noise (Ho et al., arXiv:2006.11239)."""
    time, noise = torch.rand(len(x), 1, dtype=x.dtype), torch.randn_like(x)
    angle = time * math.pi / 2
    return angle.cos() * x + angle.sin() * noise, time, noise


def tell_noise(net: Any, x: Tensor, y: Tensor, step: int) -> Tensor:
    mixed, time, noise = noised(x)
    return F.mse_loss(net(mixed, time), noise)


def tell_velocity(net: Any, x: Tensor, y: Tensor, step: int) -> Tensor:
    """The straight way from noise to a point: most of it cannot be known (Lipman et al., arXiv:2210.02747)."""
    time, noise = torch.rand(len(x), 1, dtype=x.dtype), torch.randn_like(x)
    return F.mse_loss(net((1 - time) * noise + time * x, time), x - noise)


def slope(net: Any, x: Tensor, y: Tensor, step: int) -> Tensor:
    """Half the square of a gradient field plus its divergence: negative once it fits (Hyvärinen 2005)."""
    x = x.detach().requires_grad_()
    with torch.enable_grad():
        field = net(x)
        divergence = sum(
            (torch.autograd.grad(field[:, i].sum(), x, create_graph=True)[0][:, i] for i in range(x.shape[1])),
            x.new_zeros(len(x)),
        )
    return (0.5 * field.square().sum(dim=1) + divergence).mean()  # type: ignore[no-any-return]


def tell_disturbance(net: Any, x: Tensor, y: Tensor, step: int) -> Tensor:
    """Noise of random size, to be told from the disturbed image, in its own units (Vincent 2011)."""
    size = torch.exp(-3 * torch.rand(len(x), 1, dtype=x.dtype))
    noise = torch.randn_like(x)
    return (net(x + size * noise, size) + noise).square().mean()  # type: ignore[no-any-return]


def minus_log_density(net: Any, x: Tensor, y: Tensor, step: int) -> Tensor:
    return -net(x).mean()  # type: ignore[no-any-return]


def mixture(net: Any, x: Tensor, y: Tensor, step: int) -> Tensor:
    """Minus the log density of a mixture (Bishop 1994)."""
    log_weights, means, log_spreads = net(x)
    densities = -0.5 * ((y - means) / log_spreads.exp()).square() - log_spreads - 0.5 * math.log(2 * math.pi)
    return -(log_weights + densities).logsumexp(dim=1).mean()  # type: ignore[no-any-return]


def quantised(net: Any, x: Tensor, y: Tensor, step: int) -> Tensor:
    image, commitment, codebook = net(x)
    return F.mse_loss(image, x) + 0.05 * commitment + 0.2 * codebook  # type: ignore[no-any-return]


def real_or_noise(net: Any, x: Tensor, y: Tensor, step: int) -> Tensor:
    """Points are told from noise by minus an energy (Gutmann and Hyvärinen 2010)."""
    noise = 1.5 * torch.randn_like(x)
    return (F.softplus(net(x)) + F.softplus(-net(noise))).mean() / 2


def binary_pixels() -> Data:
    """Pixels that are 0 or 1, to be given back; the constant loss is the mean entropy of a pixel."""
    bits = (data.pixels().inputs > 0.5).float()
    share = bits.double().mean(dim=0)
    entropy = -(torch.special.xlogy(share, share) + torch.special.xlogy(1 - share, 1 - share)).mean()
    return Data(bits, bits, float(entropy))


def unit_digits() -> Data:
    """Standardised images and a constant loss of 1, that of telling nothing of unit noise."""
    return data.judged(data.digits(), 1.0)


RECIPES = [
    taught("elbo_with_warmup", Variational, adam(3e-3), elbo, redrawn, data=data.digit_reconstruction, steps=400),
    taught(
        "elbo_in_cycles", lambda: Variational(4), adam(3e-3), elbo_in_cycles, redrawn, data=data.digit_reconstruction
    ),
    taught(
        "elbo_above_zero",
        lambda: Variational(6),
        adamw(2e-3),
        normal_elbo,
        lambda net, x, y: F.mse_loss(net(x)[:, :64], x),
        data=data.digit_reconstruction,
        steps=400,
    ),
    taught(
        "diffusion_digits",
        lambda: Timed(64, 128),
        adam(2e-3),
        tell_noise,
        lambda net, x, y: tell_noise(net, x, y, 0),
        data=unit_digits,
        batch_size=32,
    ),
    taught(
        "diffusion_ring",
        lambda: Timed(2, 64, nn.GELU),
        adam(5e-3),
        tell_noise,
        lambda net, x, y: tell_noise(net, x, y, 0),
        data=lambda: data.judged(data.ring(), 1.0),
        steps=350,
    ),
    taught(
        "flow_matching",
        lambda: Timed(2, 64),
        adam(5e-3),
        tell_velocity,
        lambda net, x, y: tell_velocity(net, x, y, 0),
        data=lambda: data.judged(data.clusters(), 1.0 + float(data.clusters().inputs.var(dim=0).mean())),
        steps=350,
    ),
    taught(
        "score_by_divergence",
        lambda: dense([2, 48, 48, 2], nn.Softplus),
        adam(5e-3),
        slope,
        lambda net, x, y: F.mse_loss(net(x), y),
        data=data.two_hills,
    ),
    taught(
        "score_of_noised_digits",
        lambda: Timed(64, 160),
        adam(4e-3),
        tell_disturbance,
        lambda net, x, y: tell_disturbance(net, x, y, 0),
        data=unit_digits,
        steps=400,
    ),
    taught(
        "flow",
        Flow,
        adam(5e-3),
        minus_log_density,
        lambda net, x, y: (y[:, 0] - net(x)).mean(),
        data=data.thin_parabola,
        schedule=cosine(300),
    ),
    taught(
        "mixture_density",
        lambda: Mixture(1, 4),
        adam(5e-3),
        mixture,
        lambda net, x, y: mixture(net, x, y, 0) - data.known_entropy(),
        data=data.either_root,
        schedule=cosine(400),
        steps=400,
    ),
    alone(
        "autoregressive_pixels",
        lambda: autoregressive(64, 189),
        adam(1e-2),
        data=binary_pixels,
        objective=F.binary_cross_entropy_with_logits,
        steps=400,
    ),
    taught(
        "quantised_code",
        Quantised,
        adam(3e-3),
        quantised,
        lambda net, x, y: F.mse_loss(net(x)[0], x),
        data=data.digit_reconstruction,
        batch_size=32,
    ),
    taught(
        "energy_against_noise",
        lambda: dense([2, 48, 48, 1], nn.SiLU),
        adam(5e-3),
        real_or_noise,
        lambda net, x, y: real_or_noise(net, x, y, 0),
        data=lambda: data.judged(data.crescent(), math.log(2)),
    ),
]
