"""One run, one flavour: the Trainer and all that it is given are of the package that the model is of."""

from lightning.pytorch import LightningDataModule, LightningModule
from omegaconf import DictConfig, OmegaConf

from lightning_gradtools._lightning.flavour import package_of
from lightning_gradtools.arguments import ArgumentError

# How a configuration may spell each of the two; `lightning.Trainer` is short for `lightning.pytorch.Trainer`.
_SPELLINGS = ("pytorch_lightning.", "lightning.pytorch.", "lightning.")
_NOT_BY_FLAVOUR = "lightning.fabric."


def in_flavour_of(module: LightningModule, datamodule: LightningDataModule | None, cfg: DictConfig) -> DictConfig:
    """Return ``cfg`` with the ``_target_`` of every part of Lightning's taken from the package that ``module`` is of.

    Args:
        module: the model.
        datamodule: its data.
        cfg: the composed config, whose groups ``trainer``, ``callbacks`` and ``logger`` may name either package.

    Raises:
        ArgumentError: if the data are a module of the other package, which no Trainer takes beside this model.
    """
    package = package_of(module)
    if datamodule is not None and package_of(datamodule) != package:
        raise ArgumentError(
            f"data._target_={cfg.data._target_}: is a data module of {package_of(datamodule)}, and the model"
            f" {type(module).__name__} is of {package}; must be of one package: import LightningModule and"
            " LightningDataModule from the same, or set data=none if the model has its own loaders"
        )
    found = cfg.copy()
    OmegaConf.set_readonly(found, False)
    for group in ("trainer", "callbacks", "logger"):
        _retarget(found[group], package)
    return found


def _retarget(node: object, package: str) -> None:
    if not OmegaConf.is_config(node):
        return
    if OmegaConf.is_list(node):
        for child in node:  # type: ignore[attr-defined]
            _retarget(child, package)
        return
    assert isinstance(node, DictConfig)
    for key in list(node):
        if OmegaConf.is_missing(node, key) or OmegaConf.is_interpolation(node, str(key)):
            continue
        if key == "_target_":
            node[key] = _of(str(node[key]), package)
        else:
            _retarget(node[key], package)


def _of(target: str, package: str) -> str:
    for spelling in _SPELLINGS:
        if target.startswith(spelling) and not target.startswith(_NOT_BY_FLAVOUR):
            return f"{package}.{target.removeprefix(spelling)}"
    return target
