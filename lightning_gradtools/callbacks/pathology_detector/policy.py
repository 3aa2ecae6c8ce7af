"""What is done about a finding, by its severity."""

from collections.abc import Iterable
from dataclasses import dataclass

from lightning_gradtools.arguments import one_of
from lightning_gradtools.diagnosis import Finding, Severity

ACTIONS = ("log", "warn", "stop", "raise")


class PathologyError(RuntimeError):
    """A finding at a severity whose policy is ``"raise"``."""


@dataclass(frozen=True)
class Verdict:
    """What is to be done about new findings.

    Attributes:
        warn: those to warn of.
        stop: the first that ends the run gracefully, or None.
        fail: the first that ends it with an error, or None.
    """

    warn: tuple[Finding, ...]
    stop: Finding | None
    fail: Finding | None


class Policy:
    """The action for each severity: ``"log"``, ``"warn"``, ``"stop"`` or ``"raise"``.

    Raises:
        ArgumentError: if an action is none of these.
    """

    def __init__(self, on_info: str, on_warning: str, on_critical: str) -> None:
        self.actions = {
            Severity.INFO: one_of("on_info", on_info, ACTIONS),
            Severity.WARNING: one_of("on_warning", on_warning, ACTIONS),
            Severity.CRITICAL: one_of("on_critical", on_critical, ACTIONS),
        }

    def verdict(self, news: Iterable[Finding]) -> Verdict:
        """Return what is to be done about ``news``; what stops or raises also warns.

        What follows from another finding is not warned of: that one is.
        """
        acted = [(finding, self.actions[finding.severity]) for finding in news]
        return Verdict(
            warn=tuple(
                finding
                for finding, action in acted
                if action in ("stop", "raise") or (action == "warn" and finding.cause is None)
            ),
            stop=next((finding for finding, action in acted if action == "stop"), None),
            fail=next((finding for finding, action in acted if action == "raise"), None),
        )
