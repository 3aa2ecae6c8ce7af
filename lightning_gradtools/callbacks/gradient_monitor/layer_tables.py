"""Names, layers and logged keys of the parameters of a run, looked up once."""

from collections.abc import Sequence

from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from lightning_gradtools._lightning.loop import optimizer_suffix
from lightning_gradtools._lightning.module import parameter_names
from lightning_gradtools.gradients.layers import LayerGrouping, LayerTable, names_in_keys


class Keys:
    """The logged keys of one list of layers, made once.

    No layer takes the place of a total or of the figure: one called ``total`` is logged as ``total_``.

    Args:
        names: the layers.
        prefix: put before every key.
        suffix: put behind every key.
    """

    def __init__(self, names: Sequence[str], prefix: str, suffix: str) -> None:
        self._names = names_in_keys(names, ("total", "over_depth"))
        self._prefix, self._suffix = prefix, suffix
        self._known: dict[str, tuple[str, list[str]]] = {}

    def of(self, quantity: str) -> tuple[str, list[str]]:
        """Return the key of the total of ``quantity`` and those of its layers."""
        if quantity not in self._known:
            start, end = f"{self._prefix}{quantity}/", self._suffix
            self._known[quantity] = f"{start}total{end}", [f"{start}{name}{end}" for name in self._names]
        return self._known[quantity]

    def single(self, key: str) -> str:
        """Return the key of a number that belongs to no layer."""
        return f"{self._prefix}{key}{self._suffix}"


class LayerTables:
    """The layers of each optimizer's parameters.

    Args:
        grouping: the layer of a parameter.
        prefix: put before every key.
    """

    def __init__(self, grouping: LayerGrouping, prefix: str) -> None:
        self._grouping, self._prefix = grouping, prefix
        self._names: dict[int, tuple[str, str | None]] = {}  # name and layer of a parameter, by its id
        self._tables: dict[int, tuple[list[int], LayerTable, Keys]] = {}  # with ids, by the optimizer's index

    def start_fit(self, module: LightningModule) -> None:
        """Forget all, another run may have other parameters under the same ids, and look at the patterns.

        Raises:
            ArgumentError: if they fit no parameter of ``module``.
        """
        self._names.clear()
        self._tables.clear()
        self._grouping.check(list(parameter_names(module).values()))

    def name_and_layer(self, module: LightningModule, parameter: Tensor) -> tuple[str, str | None]:
        """Return the name of ``parameter`` and its layer, None if it is not to be reported."""
        if id(parameter) not in self._names:
            self._names.update(
                {key: (name, self._grouping.layer(name)) for key, name in parameter_names(module).items()}
            )
            self._names.setdefault(id(parameter), ("", None))  # an optimizer may hold what no module does
        return self._names[id(parameter)]

    def of(
        self, trainer: Trainer, module: LightningModule, parameters: Sequence[Tensor], index: int
    ) -> tuple[LayerTable, Keys]:
        """Return the layers of ``parameters`` and their keys, as a rule the same step after step.

        Layers are listed as the module defines them, whatever groups the optimizer has. ``index`` is that of the
        optimizer.
        """
        ids = list(map(id, parameters))
        known = self._tables.get(index)
        if known is None or known[0] != ids:
            layers = [self.name_and_layer(module, parameter)[1] for parameter in parameters]
            depth = {key: position for position, key in enumerate(parameter_names(module))}
            table = LayerTable(layers, [depth.get(key, len(depth)) for key in ids])
            known = self._tables[index] = ids, table, Keys(table.names, self._prefix, optimizer_suffix(trainer, index))
        return known[1], known[2]

    def order(self, quantity: str) -> list[str]:
        """Return the keys of the layers of ``quantity`` that have been looked up, as the module defines them."""
        return [key for _, _, keys in self._tables.values() for key in keys.of(quantity)[1]]
