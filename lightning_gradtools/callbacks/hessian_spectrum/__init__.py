"""The Hessian's spectrum while a network trains."""

from lightning_gradtools.callbacks.hessian_spectrum.callback import HessianSpectrum

__all__ = ["HessianSpectrum"]
