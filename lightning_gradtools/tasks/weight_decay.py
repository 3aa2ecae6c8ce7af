"""Which parameters weight decay applies to."""

import inspect
from collections.abc import Callable, Iterable
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer

OptimizerFactory = Callable[[Iterable[Any]], Optimizer]

_NOT_DECAYED = (nn.Embedding, nn.EmbeddingBag, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, _BatchNorm)


def weight_decay_groups(module: nn.Module, optimizer: OptimizerFactory) -> list[Any]:
    """Return the trainable parameters as the ``optimizer`` factory should get them.

    Decay shrinks the matrices and kernels that multiply activations. It is kept off biases and the gains of
    normalisation ("no bias decay", Jia et al. 2018, arXiv:1807.11205; He et al. 2019, arXiv:1812.01187,
    section 3.1) and off embeddings, whose rows would shrink at every step, seen or not (minGPT's
    ``configure_optimizers``). A weight shared by an embedding and a linear layer counts as an embedding.

    Args:
        module: whose parameters.
        optimizer: the class, or a `functools.partial` of it, whose ``weight_decay`` is looked up.

    Returns:
        A plain list of parameters if the factory has no ``weight_decay`` or it is 0; otherwise up to two
        groups, the second with ``weight_decay`` 0.
    """
    parameters = [p for p in module.parameters() if p.requires_grad]
    option = inspect.signature(optimizer).parameters.get("weight_decay")
    if option is None or not option.default or option.default is option.empty:
        return parameters
    exempt = {
        id(p)
        for layer in module.modules()
        for p in layer.parameters(recurse=False)
        if p.ndim < 2 or isinstance(layer, _NOT_DECAYED)
    }
    decayed = [p for p in parameters if id(p) not in exempt]
    others = [p for p in parameters if id(p) in exempt]
    groups: list[dict[str, Any]] = [{"params": decayed}, {"params": others, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]
