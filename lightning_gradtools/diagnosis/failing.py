"""Does training fail? What turns a number that is only unusual into a finding to act on."""

from lightning_gradtools.diagnosis.progress import too_slow
from lightning_gradtools.diagnosis.rule import RuleContext

STEPS = 60
NOISY_STEPS = 300
_LEARNED = 0.05
_DIVERGED = 10.0  # times the baseline loss, and that at the start, twice running
_NOISE = 0.1  # standard deviation / level of the loss, from which a fall takes longer to see


def training_fails(context: RuleContext) -> bool:
    """Say whether values are not finite, the loss runs away, or nothing was learned and nothing is on its way.

    The last is known after :data:`STEPS` steps. Half of the run without having learned more than a little is failing
    too. A warm-up has time until it is over, and a noisy loss until :data:`NOISY_STEPS`. Without a single loss the
    answer is no as long as values are finite.
    """
    if context.nonfinite or _diverges(context):
        return True
    going, history = context.progress, context.history
    if going is None or history.warming_up() or going.steps < STEPS:
        return False
    if too_slow(history, going):
        return True
    if not going.nothing_learned(_LEARNED):
        return False
    return going.noise <= _NOISE * abs(going.level) or len(history.losses) >= NOISY_STEPS


def _diverges(context: RuleContext) -> bool:
    """Say whether the loss is far above that of a constant prediction, and far above where it was when first known."""
    history = context.history
    start = next(((each.step, each.skill) for each in history.first_observations if each.skill is not None), None)
    if start is None or not history.losses:
        return False
    step, skill = start
    far = _DIVERGED * max(1.0, 1 - skill)
    later = [each.skill for each in history.observations[-2:] if each.step > step]
    return len(later) == 2 and all(each is not None and 1 - each > far for each in later)
