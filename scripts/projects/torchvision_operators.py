"""Makes torchvision importable where its compiled part was built for another torch than the one that is installed.

Its import looks up two operators of that part. Declared here, without kernels, they let the rest load, which is plain
Python; what needs an operator itself still raises. To be imported before anything that imports torchvision.
"""

import importlib.util

import torch

_OPERATORS = tuple(f"{name}(Tensor boxes, Tensor scores, float threshold) -> Tensor" for name in ("nms", "qnms"))


def declare() -> torch.library.Library | None:
    """Declare the operators if torchvision's own do not load; what is returned has to be kept."""
    if importlib.util.find_spec("torchvision") is None:
        return None
    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        library = torch.library.Library("torchvision", "DEF")
        for each in _OPERATORS:
            library.define(each)
        return library
    return None


LIBRARY = declare()
