"""Does training fail? What turns a number that is only unusual into a finding to act on."""

from lightning_gradtools.diagnosis.progress import too_slow
from lightning_gradtools.diagnosis.rule import RuleContext

STEPS = 60
NOISY_STEPS = 300
_LEARNED = 0.05
_NOISE = 0.1  # standard deviation / level of the loss, from which a fall takes longer to see


def training_fails(context: RuleContext) -> bool:
    """Say whether values are not finite, or nothing was learned after :data:`STEPS` steps and nothing is on its way.

    Half of the run without having learned more than a little is failing too. A warm-up has time until it is over, and a
    noisy loss until :data:`NOISY_STEPS`. Without a single loss the answer is no as long as values are finite.
    """
    if context.nonfinite:
        return True
    going, history = context.progress, context.history
    if going is None or history.warming_up() or going.steps < STEPS:
        return False
    if too_slow(history, going):
        return True
    if not going.nothing_learned(_LEARNED):
        return False
    return going.noise <= _NOISE * abs(going.level) or len(history.losses) >= NOISY_STEPS
