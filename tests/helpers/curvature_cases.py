"""Spectra that tests/curvature compares between one process and two, and ranks that fail alone."""

import warnings
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from helpers.runs import Regression, batches, loader, trainer
from lightning_gradtools.arguments import ArgumentError
from lightning_gradtools.callbacks import HessianSpectrum
from lightning_gradtools.curvature import Budget, hessian_spectrum
from lightning_gradtools.curvature.budget import Meter
from lightning_gradtools.curvature.composition import MeanOverRanks
from lightning_gradtools.curvature.hessian_spectrum import operator_spectrum
from lightning_gradtools.curvature.method import hessian_operator
from lightning_gradtools.curvature.operator import CurvatureOperator, WrappedOperator
from lightning_gradtools.distributed import RankFailure, mean_over_ranks, mean_over_ranks_of, on_all_ranks


def smooth_net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 1))


class FullySharded(Regression):
    def configure_model(self) -> None:
        for layer in (0, 2, 4):
            fully_shard(self.net[layer], mesh=self.device_mesh["data_parallel"])


class HalfFrozen(FullySharded):
    def configure_model(self) -> None:
        self.net[2].bfloat16().requires_grad_(False)
        super().configure_model()


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
    try:
        watch(HalfFrozen, smooth_net, data, strategy=make(), **shared)
    except ArgumentError as error:
        found["FSDP2, frozen in half precision"] = str(error)
    return found


class FullError(RuntimeError):
    """What a rank raises whose memory is full."""


def failing(at: int, error: type[BaseException], failing_rank: int, loss: Any) -> Any:
    """Return ``loss``, which raises at its call number ``at`` (from 1) on one rank."""
    calls = 0

    def guarded() -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls == at and dist.get_rank() == failing_rank:
            raise error("memory is full")
        return loss()

    return guarded


class FailsAt(WrappedOperator):
    """Products of another operator, which raise at one of them on one rank."""

    def __init__(self, operator: CurvatureOperator, at: int, error: type[BaseException], failing_rank: int) -> None:
        super().__init__(operator)
        self.at, self.failure, self.failing_rank, self.made = at, error, failing_rank, 0

    def matvec(self, vector: torch.Tensor) -> torch.Tensor:
        self.made += 1
        if self.made == self.at and dist.get_rank() == self.failing_rank:
            raise self.failure("memory is full")
        return super().matvec(vector)


def ending(work: Any) -> Any:
    """Return what ``work()`` raised, whether a rank was interrupted, and whether ranks can still work together."""
    raised, interrupted = None, None
    try:
        work()
    except (FullError, ArgumentError, RankFailure, KeyboardInterrupt) as error:
        raised, interrupted = f"{type(error).__name__}: {error}", getattr(error, "interrupted", None)
    # of another size than any message above: a rank that is one reduction behind would fail here
    after = mean_over_ranks(torch.full((7,), float(dist.get_rank())))
    return raised, interrupted, after.tolist()


def failing_alone() -> dict[str, Any]:
    """Fail on one rank in every place that ranks work on alone, and tell how this rank ended."""
    data = local_data()[0]
    x, y = data[0].double(), data[1].double()
    torch.manual_seed(0)
    net = smooth_net().double()
    parameters = list(net.parameters())

    def loss() -> torch.Tensor:
        return (net(x) - y).square().mean()

    def solve(loss_fn: Any, **options: Any) -> Any:
        generator = torch.Generator().manual_seed(0)
        return lambda: hessian_spectrum(loss_fn, parameters, average_ranks=True, generator=generator, **options)

    def products(method: str, at: int, error: type[BaseException], rank: int) -> Any:
        generator = torch.Generator().manual_seed(0)

        def work() -> None:
            operator = MeanOverRanks(FailsAt(hessian_operator(loss, parameters, method=method), at, error, rank))
            meter = Meter(operator, Budget(), 0.0, shared=True)
            operator_spectrum(operator, top_k=3, rtol=1e-6, meter=meter, generator=generator)

        return work

    found = {}
    for rank in (0, 1):
        for method in ("retained", "finite_difference"):
            for at in (1, 4):
                found[f"product {at}, {method}, rank {rank}"] = ending(products(method, at, FullError, rank))
        found[f"interrupted product, rank {rank}"] = ending(products("retained", 3, KeyboardInterrupt, rank))
        # among these: the graph that is kept, the gradient that an iteration starts from, and gradients of differences
        for method, at in (
            *(("retained", 1), ("linearize", 1), ("fresh", 1), ("fresh", 3)),
            *(("finite_difference", 1), ("finite_difference", 2), ("finite_difference", 9)),
        ):
            found[f"loss {at}, {method}, rank {rank}"] = ending(
                solve(failing(at, FullError, rank, loss), method=method, budget=Budget(gradients=60, seconds=60))
            )
        # as AutomaticHessian takes a RuntimeError for a reason to do without a second derivative: not one of those
        for at, memory in ((1, None), (2, None), (1, 1), (2, 1), (2, 10**9)):
            found[f"loss {at}, auto with memory {memory}, rank {rank}"] = ending(
                solve(failing(at, ArgumentError, rank, loss), memory=memory, rtol=1e-3)
            )
        found[f"interrupted difference, rank {rank}"] = ending(solve(failing(3, KeyboardInterrupt, rank, loss)))
    found["both"] = ending(products("retained", 2, FullError, dist.get_rank()))
    found["wrong shape"] = ending_of_wrong_shape()
    return found


def ending_of_wrong_shape() -> Any:
    try:
        mean_over_ranks_of(lambda: torch.zeros(3 + dist.get_rank()), torch.zeros(3))
    except (ValueError, RankFailure) as error:
        return f"{type(error).__name__}: {error}"
    return None


def together() -> dict[str, Any]:
    """Return what ranks that do not fail get."""
    rank = dist.get_rank()
    values = torch.randn(5, 3, generator=torch.Generator().manual_seed(rank))
    mean = mean_over_ranks_of(lambda: values, torch.zeros(5, 3))
    return {
        "mean": mean,
        "plain mean": mean_over_ranks(values),
        "own": on_all_ranks(lambda: f"rank {rank}", torch.device("cpu")),
    }


def one_process() -> dict[str, Any]:
    torch.manual_seed(0)
    net = smooth_net().double()
    return {"spectrum": spectrum(net, batches(4)[0]), "run": watch(Regression, smooth_net, batches(4))}
