"""Errors as their reader needs them: one line, the place in the config, and the nearest word that would have worked."""

import difflib
import re
from collections.abc import Iterator

from hydra import compose, initialize_config_module
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType
from hydra.errors import CompactHydraException, InstantiationException, MissingConfigException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lightning_gradtools._lightning.flavour import is_a
from lightning_gradtools.arguments import ArgumentError


def explain(error: Exception, arguments: list[str]) -> str | None:
    """Return what to print for ``error``, or None if it is a bug that deserves its traceback.

    Args:
        error: what composing, instantiating or running raised.
        arguments: the command line after the program's name; tells which groups were selected.
    """
    if isinstance(error, InstantiationException):
        return f"Error: {_instantiation(error)}"
    if isinstance(error, CompactHydraException):
        cause = error.__cause__
        detail = f"\n{cause}" if isinstance(cause, OmegaConfBaseException) else ""
        return f"Error: {error}{detail}{_did_you_mean(error, arguments)}"
    if isinstance(error, (ArgumentError, OmegaConfBaseException)) or is_a(error, "MisconfigurationException"):
        return f"Error: {error}"
    return None


def _instantiation(error: InstantiationException) -> str:
    """``model.net: width=0: must be …``: the innermost key, target and cause of Hydra's chain."""
    root: BaseException = error
    texts = [str(error)]
    while root.__cause__ is not None:
        root = root.__cause__
        texts.append(str(root))
    keys = [key for text in texts for key in re.findall(r"full_key: (\S+)", text)]
    targets = [name for text in texts for name in re.findall(r"(?:target|locating target) '([^']+)'", text)]
    place = f"{keys[-1]}: " if keys else ""
    if isinstance(root, ArgumentError):
        return f"{place}{root}"
    target = f"{targets[-1]}: " if targets and targets[-1] not in str(root) else ""
    return f"{place}{target}{root}"


def _did_you_mean(error: CompactHydraException, arguments: list[str]) -> str:
    if isinstance(error, MissingConfigException) and error.missing_cfg_file and error.options:
        wrong, known = error.missing_cfg_file.rsplit("/", 1)[-1], list(error.options)
    elif match := re.search(r"Could not override '([^']+)'", str(error)):
        wrong, known = match.group(1), _known_keys(arguments)
    else:
        return ""
    nearest = _nearest(wrong, known)
    return f"\nDid you mean {' or '.join(nearest)}?" if nearest else ""


def _nearest(wrong: str, known: list[str]) -> list[str]:
    """The keys that end in the same word; else the one most like ``wrong``."""

    def leaf(key: str) -> str:
        return key.rsplit(".", 1)[-1]

    same = [key for key in known if leaf(key) == leaf(wrong)]
    if same:
        return same[:3]
    near = difflib.get_close_matches(wrong, known, n=1)
    near_leaf = difflib.get_close_matches(leaf(wrong), map(leaf, known), n=1)
    return near or [key for key in known if leaf(key) in near_leaf][:3]


def _known_keys(arguments: list[str]) -> list[str]:
    """Every group and every dotted key of the config which the selections of groups in ``arguments`` compose to."""
    with initialize_config_module("lightning_gradtools.conf", version_base="1.3"):
        groups = list(_groups(GlobalHydra.instance().config_loader()))
        selections = [argument for argument in arguments if argument.split("=")[0] in groups]
        try:
            cfg = compose("train", selections)
        except CompactHydraException:  # a selection is wrong as well; Hydra has said so for the first
            cfg = compose("train")
    return groups + list(_dotted(OmegaConf.to_container(cfg)))


def _groups(loader: ConfigLoader, parent: str = "") -> Iterator[str]:
    for name in loader.get_group_options(parent, ObjectType.GROUP):
        group = f"{parent}/{name}".lstrip("/")
        if loader.get_group_options(group, ObjectType.CONFIG):
            yield group
        yield from _groups(loader, group)


def _dotted(node: object, prefix: str = "") -> Iterator[str]:
    if isinstance(node, dict):
        for key, child in node.items():
            yield f"{prefix}{key}"
            yield from _dotted(child, f"{prefix}{key}.")
