"""Names, layers and logged keys of the parameters of a run, looked up once."""

from collections.abc import Sequence

from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from lightning_gradtools._lightning.loop import optimizer_suffix
from lightning_gradtools._lightning.module import parameter_names
from lightning_gradtools.callbacks.gradient_monitor.report import Keys
from lightning_gradtools.gradients.layers import LayerGrouping, LayerTable


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

        ``index`` is that of the optimizer.
        """
        ids = list(map(id, parameters))
        known = self._tables.get(index)
        if known is None or known[0] != ids:
            table = LayerTable([self.name_and_layer(module, parameter)[1] for parameter in parameters])
            known = self._tables[index] = ids, table, Keys(table.names, self._prefix, optimizer_suffix(trainer, index))
        return known[1], known[2]

    def clear(self) -> None:
        """Forget all: another run may have other parameters under the same ids."""
        self._names.clear()
        self._tables.clear()
