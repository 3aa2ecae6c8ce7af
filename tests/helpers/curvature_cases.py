"""Spectra that tests/curvature/test_two_ranks.py compares between one process and two."""

import warnings
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy
from runs import Regression, batches, loader, trainer
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from lightning_gradtools.callbacks import HessianSpectrum
from lightning_gradtools.curvature import hessian_spectrum


def smooth_net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 1))


class FullySharded(Regression):
    def configure_model(self) -> None:
        for layer in (0, 2, 4):
            fully_shard(self.net[layer], mesh=self.device_mesh["data_parallel"])


def spectrum(net: nn.Module, data: Any, **options: Any) -> Any:
    x, y = data
    generator = torch.Generator().manual_seed(0)
    found = hessian_spectrum(
        lambda: (net(x.to(next(net.parameters()).dtype)) - y).square().mean(),
        net.parameters(),
        generator=generator,
        **{"rtol": 1e-7, **options},
    )
    return found.eigenvalues, found.bounds, found.method, found.converged, found.products


def watch(module_type: type[Regression], net: Any, data: Any, *, watched: bool = True, **settings: Any) -> Any:
    torch.manual_seed(0)
    module = module_type(net=net, optimizer=torch.optim.SGD, lr=0.1)
    callback = HessianSpectrum(every_n_steps=2, rtol=1e-4, per_layer=True)
    run = trainer(*([callback] if watched else []), **settings)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run.fit(module, loader(data))
    weights = [p.full_tensor() if hasattr(p, "full_tensor") else p for p in module.parameters()]
    return [values for _, values in callback.history], torch.cat([w.detach().reshape(-1) for w in weights])


def local_data() -> Any:
    rank = dist.get_rank()
    return [(x[rank::2], y[rank::2]) for x, y in batches(4)]


def two_ranks() -> dict[str, Any]:
    """Run everything on this rank of two, each with half of every batch."""
    data, found = local_data(), {}
    torch.manual_seed(0)
    net = smooth_net().double()
    found["DDP"] = spectrum(net, data[0], average_ranks=True)
    found["DDP, differences"] = spectrum(net, data[0], average_ranks=True, method="finite_difference", rtol=1e-5)
    mesh = init_device_mesh("cpu", (2,))
    for layer in (0, 2, 4):
        fully_shard(net[layer], mesh=mesh)
    found["FSDP2"] = spectrum(net, data[0], rtol=1e-5)
    shared = {"devices": 2, "use_distributed_sampler": False}
    for name, module_type, make in (
        ("DDP", Regression, DDPStrategy),
        ("FSDP2", FullySharded, lambda: ModelParallelStrategy(data_parallel_size=2, tensor_parallel_size=1)),
    ):
        for watched in (True, False):
            found[f"{name} run, {watched}"] = watch(
                module_type, smooth_net, data, watched=watched, strategy=make(), **shared
            )
    return found


def one_process() -> dict[str, Any]:
    torch.manual_seed(0)
    net = smooth_net().double()
    return {"spectrum": spectrum(net, batches(4)[0]), "run": watch(Regression, smooth_net, batches(4))}
