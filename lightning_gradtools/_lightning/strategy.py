"""What is asked of a Trainer's strategy and precision, and refused under it."""

from typing import NamedTuple

from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh

from lightning_gradtools._lightning.flavour import is_a
from lightning_gradtools.arguments import ArgumentError


def is_strategy(trainer: Trainer, *names: str) -> bool:
    """Say whether the strategy of ``trainer`` is, or descends from, a class of Lightning's of one of these names."""
    return is_a(trainer.strategy, *names)


def starts_ranks_by_rerunning(trainer: Trainer) -> bool:
    """Say whether the strategy of ``trainer`` starts its other ranks by running this process's command line again."""
    return is_a(trainer.strategy.launcher, "_SubprocessScriptLauncher")


def gathers_nothing(trainer: Trainer) -> bool:
    """Say whether the strategy of ``trainer`` forks or spawns its ranks, which take what they find away with them."""
    return is_a(trainer.strategy.launcher, "_MultiProcessingLauncher")


class Replicas(NamedTuple):
    """How the ranks share out a step.

    Attributes:
        data: number of different batches.
        shards: number of ranks that work on one batch together (tensor parallelism).
        shard: number of this rank among them, from 0.
        alike: whether all ranks are to have the same weights, whole, after each step.
    """

    data: int = 1
    shards: int = 1
    shard: int = 0
    alike: bool = False


def replicas(trainer: Trainer) -> Replicas:
    """Return how the ranks of ``trainer`` share out a step, as its strategy tells its samplers."""
    sampling = getattr(trainer.strategy, "distributed_sampler_kwargs", None) or {}
    data = int(sampling.get("num_replicas", trainer.world_size))
    shards = max(1, trainer.world_size // data)
    if shards == 1:
        return Replicas(data=data, alike=data > 1 and _keeps_weights_alike(trainer))
    mesh: DeviceMesh = trainer.strategy.device_mesh["tensor_parallel"]  # type: ignore[attr-defined]
    return Replicas(data=data, shards=shards, shard=mesh.get_local_rank())


def _keeps_weights_alike(trainer: Trainer) -> bool:
    """Say whether DDP averages all gradients at each step; local SGD lets the weights part for a while on purpose."""
    if not is_strategy(trainer, "DDPStrategy"):
        return False
    left_alone = getattr(trainer.lightning_module, "_ddp_params_and_buffers_to_ignore", ())
    return getattr(trainer.strategy, "_model_averaging_period", None) is None and not left_alone


def require_whole_gradients(trainer: Trainer, callback: str, otherwise: str = "") -> None:
    """Refuse a run whose gradients ``callback``, given by name, could see only in part.

    FSDP1 leaves each rank a shard of flattened parameters, DeepSpeed keeps gradients in buffers of its own. Under
    FSDP2 a gradient is a ``DTensor``, which knows what it is a part of.

    Args:
        trainer: the run.
        callback: who asks.
        otherwise: another way out for the user.

    Raises:
        ArgumentError: under such a strategy.
    """
    if is_strategy(trainer, "DeepSpeedStrategy", "FSDPStrategy"):
        raise ArgumentError(
            f"strategy={type(trainer.strategy).__name__}: keeps whole gradients out of the reach of {callback};"
            f" use ModelParallelStrategy (FSDP2){otherwise}"
        )


def require_automatic_optimization(pl_module: LightningModule, reason: str) -> None:
    """Refuse a module that takes its steps itself.

    Args:
        pl_module: the module.
        reason: why that cannot work.

    Raises:
        ArgumentError: if it does.
    """
    if not pl_module.automatic_optimization:
        raise ArgumentError(f"{type(pl_module).__name__}.automatic_optimization=False: {reason}")


def loss_scale_of(trainer: Trainer) -> Tensor | None:
    """Return the scale [] that fp16's loss scaler multiplied the loss by, or None without one."""
    scaler = getattr(trainer.precision_plugin, "scaler", None)
    # `get_scale()` would make the host wait for the device; there is no scale before the first backward pass.
    return None if scaler is None or scaler._scale is None else scaler._scale


def unscales_itself(optimizer: object) -> bool:
    """Say whether ``optimizer`` divides the loss scale out inside its step, so that gradients still have it."""
    return bool(getattr(optimizer, "_step_supports_amp_scaling", False))
