"""Curvature through attention kernels that have no second derivative."""

from functools import partial

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from gpu.check import Check, Outcome, Setting
from gpu.runs import failures, train
from lightning_gradtools.callbacks import HessianSpectrum

WIDTH, HEADS, TIME, BATCH = 32, 2, 32, 4


class Attention(LightningModule):
    """One layer of causal attention, whose kernel is fixed by the module itself, and regression on its output.

    Args:
        backend: the kernel.
        dtype: of queries, keys and values; the flash kernel of a GPU has no float32.
    """

    def __init__(self, backend: SDPBackend, dtype: torch.dtype) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.qkv, self.output = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.output.requires_grad_(False)  # so that all curvature is that of what goes through the kernel
        self.backend, self.kernel_dtype = backend, dtype

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        q, k, v = self.qkv(x).view(*x.shape[:2], 3, HEADS, -1).permute(2, 0, 3, 1, 4).to(self.kernel_dtype)
        with sdpa_kernel(self.backend):
            mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return F.mse_loss(self.output(mixed.to(x.dtype).transpose(1, 2).flatten(2)), y)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1e-3)


def spectrum(backend: SDPBackend, dtype: torch.dtype, setting: Setting) -> HessianSpectrum:
    """Train one step and return the callback that has computed after it."""
    generator = torch.Generator().manual_seed(1)
    x, y = (torch.randn(BATCH, TIME, WIDTH, generator=generator) for _ in range(2))
    found = HessianSpectrum(every_n_steps=1, top_k=1, stability=False)
    train(Attention(backend, dtype), [found], [(x, y)], setting)
    problems = failures([found])
    if problems or found.latest is None:
        raise RuntimeError(f"no spectrum through {backend.name}: {'; '.join(problems) or 'nothing was computed'}")
    return found


def agrees(backend: SDPBackend, dtype: torch.dtype, setting: Setting) -> Outcome:
    """Compare the largest eigenvalue through a kernel without second derivative with that through the formula."""
    found, exact = (
        spectrum(each, kind, setting).latest for each, kind in ((backend, dtype), (SDPBackend.MATH, torch.float32))
    )
    assert found is not None
    assert exact is not None
    error = abs(float(found.eigenvalues[0] / exact.eigenvalues[0]) - 1)
    fell_back = found.method.startswith("finite difference") and exact.method.startswith("retained graph")
    return Outcome(
        measured=f"apart by {error:.1e}; {found.method}",
        ok=error < 0.01 and fell_back,
        figures={"apart": error, "products": found.products},
    )


def checks() -> list[Check]:
    """Return a row a kernel."""
    kernels = [
        ("flash attention, fp16", SDPBackend.FLASH_ATTENTION, torch.float16, False),
        ("flash attention, bf16", SDPBackend.FLASH_ATTENTION, torch.bfloat16, False),
        ("memory-efficient attention, fp32", SDPBackend.EFFICIENT_ATTENTION, torch.float32, True),
    ]
    return [
        Check(
            name=f"HessianSpectrum through {name}",
            expected="finite differences, within 1% of mathematical attention",
            measure=partial(agrees, backend, dtype),
            needs_cuda=needs_cuda,
        )
        for name, backend, dtype, needs_cuda in kernels
    ]
