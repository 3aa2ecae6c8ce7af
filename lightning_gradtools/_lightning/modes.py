"""Which modules are in evaluation mode though they are being trained."""

from collections.abc import Collection

from lightning.pytorch import LightningModule
from torch import nn

from lightning_gradtools._lightning.module import plain_modules

_MOSTLY = 0.5  # of a module's elements that are trained: with less it is a frozen backbone


def evaluating_by_mistake(pl_module: LightningModule, ran: Collection[str], trained: Collection[int]) -> list[str]:
    """Return the paths of the outermost modules in evaluation mode that hold back what training needs, in order.

    What counts is a normalisation by running statistics whose own weights are trained, or a dropout beside weights that
    are. Where the outermost module in evaluation mode is that layer itself somebody has singled it out (a frozen
    BatchNorm, a dropout that was turned off), and where most of the outermost module's weights are frozen it is a
    backbone: both are done on purpose. "" is ``pl_module``.

    Args:
        pl_module: the module.
        ran: paths of those modules without children or with parameters that ran in evaluation mode only.
        trained: ids of the parameters that an optimizer has and that got a gradient.
    """
    modules = plain_modules(pl_module)
    found: list[str] = []
    for name in ran:
        module, above = modules[name], name.rpartition(".")[0]
        if not _depends_on_mode(module):
            continue
        own = list(module.parameters(recurse=False)) or list(modules[above].parameters())
        if not any(id(parameter) in trained for parameter in own):
            continue
        root = name
        while root and not modules[root.rpartition(".")[0]].training:
            root = root.rpartition(".")[0]
        if root != name and root not in found and _is_mostly_trained(modules[root], trained):
            found.append(root)
    return sorted(found)


def _depends_on_mode(module: nn.Module) -> bool:
    if isinstance(module, (nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm)):
        return module.track_running_stats
    if isinstance(module, nn.modules.dropout._DropoutNd):
        return module.p > 0
    rates = [getattr(module, name, None) for name in ("dropout", "drop_prob")]  # of attention, recurrent; DropPath
    return any(isinstance(rate, float) and rate > 0 for rate in rates)


def _is_mostly_trained(module: nn.Module, trained: Collection[int]) -> bool:
    sizes = [(parameter.numel(), id(parameter) in trained) for parameter in module.parameters()]
    return sum(size for size, is_trained in sizes if is_trained) >= _MOSTLY * sum(size for size, _ in sizes)
