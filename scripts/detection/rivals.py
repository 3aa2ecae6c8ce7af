"""Published rules."""

from typing import Any


class Rivals:
    def start(self, *a: Any) -> None: ...
    def step(self, *a: Any) -> None: ...
    def findings(self) -> dict[str, Any]:
        return {}
