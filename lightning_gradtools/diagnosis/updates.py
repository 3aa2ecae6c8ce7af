"""How far a step moves the weights: the yardstick of a learning rate, whatever optimizer takes the step.

The change of a layer's weights in one step over these weights is about 1e-3 where networks train as usual (Karpathy
2022, "The spelled-out intro to neural networks"), and 1e-1 is TheDeepChecker's upper bound (Ben Braiek and Khomh 2022,
arXiv:2204.00694). Good runs with Adam begin at up to 0.08 (``scripts/bench_learning_rate.py``), so that no number alone
is a fault: it explains one, where training fails as well.
"""

import math
import statistics

from lightning_gradtools.diagnosis.observation import History, Observation

LONG_STEP = 0.03  # a suspect, in a run that fails
TOO_LONG_STEP = 0.1  # the cause


def typical_update(observation: Observation) -> float:
    """Return the median over layers of the change of weights in one step over these weights; 0 without any."""
    ratios = [layer.update_ratio for layer in observation.layers if math.isfinite(layer.update_ratio)]
    return statistics.median(ratios) if ratios else 0.0


def early_update(history: History) -> float:
    """Return the median of :func:`typical_update` over the first observations; 0 without any."""
    early = [typical_update(each) for each in history.first_observations]
    return statistics.median(early) if early else 0.0
