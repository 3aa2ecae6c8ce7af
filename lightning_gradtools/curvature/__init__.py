"""Curvature of a loss: eigenvalues, trace and density of its Hessian from products with vectors alone."""

from lightning_gradtools.curvature.budget import Budget
from lightning_gradtools.curvature.finite_difference import FiniteDifferenceHessian
from lightning_gradtools.curvature.gauss_newton import GaussNewton
from lightning_gradtools.curvature.hessian import FreshHessian, LinearizedHessian, RetainedHessian
from lightning_gradtools.curvature.hessian_spectrum import hessian_spectrum
from lightning_gradtools.curvature.spectrum import Density, Spectrum, Trace

__all__ = [
    "Budget",
    "Density",
    "FiniteDifferenceHessian",
    "FreshHessian",
    "GaussNewton",
    "LinearizedHessian",
    "RetainedHessian",
    "Spectrum",
    "Trace",
    "hessian_spectrum",
]
