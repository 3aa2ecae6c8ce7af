"""Where in a network several parameters lie, for a finding that names one place."""

from collections.abc import Collection, Sequence

from lightning_gradtools.diagnosis.observation import History


def trained_layers(history: History) -> set[str]:
    """Return the paths of the layers of which an optimizer that stepped had weights, of all if none was seen to."""
    layers = [layer for each in history.observations for layer in each.layers]
    return {layer.name for layer in layers if layer.trainable} or {layer.name for layer in layers}


def place(parameters: Sequence[str], layers: Collection[str]) -> str:
    """Return the path of the innermost module with all ``parameters``; "" also where all ``layers`` have some.

    Args:
        parameters: their names.
        layers: paths of all modules with parameters of their own that are in question; none where that is not asked.
    """
    owners = [name.rpartition(".")[0] for name in parameters]
    if layers and set(layers) <= set(owners):
        return ""
    parts = [owner.split(".") for owner in owners]
    depth = 0
    while all(len(each) > depth and each[depth] == parts[0][depth] for each in parts):
        depth += 1
    return ".".join(parts[0][:depth])


def in_words(parameters: Sequence[str]) -> str:
    """Return ``parameters`` as they are said: the first, and how many others."""
    first, others = parameters[0], len(parameters) - 1
    return first if not others else f"{first} and {others} other{'s' if others > 1 else ''}"
