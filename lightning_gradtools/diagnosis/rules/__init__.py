"""Rules, one pathology a file: a history of observations in, findings out."""

from collections.abc import Sequence
from importlib import import_module
from pkgutil import iter_modules

from lightning_gradtools.diagnosis.finding import Finding
from lightning_gradtools.diagnosis.observation import History
from lightning_gradtools.diagnosis.rule import Rule, RuleContext


def _rules_of_this_folder() -> tuple[Rule, ...]:
    rules: list[Rule] = [import_module(f"{__name__}.{module.name}").RULE for module in iter_modules(__path__)]
    return tuple(sorted(rules, key=lambda rule: rule.order))


RULES = _rules_of_this_folder()


def diagnose(history: History, rules: Sequence[Rule] = RULES) -> list[Finding]:
    """Return what ``rules`` find in ``history``, causes before consequences.

    While values are not finite no number of that time means anything: a NaN is not above zero, and so looks dead. That
    rule is exclusive. Before it are those that rest on what came earlier: the contracts of the first steps, and the
    learning rate, from which a NaN may follow.

    Args:
        history: what is known of the run.
        rules: in the order in which they are asked.
    """
    context = RuleContext.of(history)
    found: list[Finding] = []
    for rule in rules:
        new = rule.findings(context)
        found += new
        if new and rule.is_exclusive:
            break
    return found
