r"""Gradient noise scale: the batch size beyond which larger batches stop paying.

.. math:: B_\text{simple} = \frac{\operatorname{tr} \Sigma}{\lVert G \rVert^2}

with G the true gradient and Σ the covariance of one sample's gradient. The squared norm of the mean gradient
of B samples has the expectation :math:`\lVert G \rVert^2 + \operatorname{tr}\Sigma / B`, so two batch sizes
give unbiased estimates of both:

.. math::
    \lVert G \rVert^2 &\approx \frac{B_\text{big} \lVert G_\text{big} \rVert^2 -
        B_\text{small} \lVert G_\text{small} \rVert^2}{B_\text{big} - B_\text{small}} \\
    \operatorname{tr}\Sigma &\approx \frac{\lVert G_\text{small} \rVert^2 - \lVert G_\text{big} \rVert^2}
        {1 / B_\text{small} - 1 / B_\text{big}}

The ratio of two noisy numbers is biased, so both are averaged over steps before it is taken. Source:
McCandlish, Kaplan, Amodei et al. 2018, "An Empirical Model of Large-Batch Training", arXiv:1812.06162,
appendix A.1.
"""

from dataclasses import dataclass

DECAY = 0.95  # averages over about 20 observations; the paper says "moving averages" and gives no number


def unbiased_terms(small_squared: float, small_batch: int, big_squared: float, big_batch: int) -> tuple[float, float]:
    """Return the estimates of ‖G‖² and tr Σ from squared gradient norms at two batch sizes.

    Args:
        small_squared: squared norm of the mean gradient of ``small_batch`` samples; an average over several
            is better.
        small_batch: samples.
        big_squared: squared norm of the mean gradient of ``big_batch`` samples.
        big_batch: samples, more than ``small_batch``.
    """
    signal = (big_batch * big_squared - small_batch * small_squared) / (big_batch - small_batch)
    noise = (small_squared - big_squared) / (1 / small_batch - 1 / big_batch)
    return signal, noise


@dataclass
class NoiseScale:
    """Moving averages of ‖G‖² and tr Σ; their bias towards the start cancels in the ratio.

    Attributes:
        signal: average of ‖G‖².
        noise: average of tr Σ.
        weight: 1 - decay^n, the sum of the weights that both averages have given out.
    """

    signal: float = 0.0
    noise: float = 0.0
    weight: float = 0.0

    def update(self, small_squared: float, small_batch: int, big_squared: float, big_batch: int) -> None:
        """Take in one step's observation; see :func:`unbiased_terms`."""
        signal, noise = unbiased_terms(small_squared, small_batch, big_squared, big_batch)
        self.signal = DECAY * self.signal + (1 - DECAY) * signal
        self.noise = DECAY * self.noise + (1 - DECAY) * noise
        self.weight = DECAY * self.weight + (1 - DECAY)

    @property
    def scale(self) -> float | None:
        """The critical batch size in samples, or None while noise drowns the estimate of either term."""
        return self.noise / self.signal if self.signal > 0 and self.noise > 0 else None
