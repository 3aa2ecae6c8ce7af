"""Names the sick layer while a network trains."""

from lightning_gradtools.callbacks.observer import Observer
from lightning_gradtools.diagnosis import Finding


class PathologyDetector(Observer):
    """Watches a training run and says what is wrong with it, where, and what to do.

    Attributes:
        findings: what was found, in order of first appearance; see :class:`~lightning_gradtools.diagnosis.Finding`.
    """

    def __init__(self) -> None:
        self.findings: list[Finding] = []
