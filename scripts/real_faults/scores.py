"""How well a trained program does its task, in units in which its twin is scored too."""

from torch import Tensor


def accuracy(outputs: Tensor, wanted: Tensor) -> float:
    """Return the share of rows whose class is right.

    Args:
        outputs: (samples, classes), or (samples, 1) of which more than a half says class 1.
        wanted: (samples,) class indices, or (samples, 1) of 0 and 1.
    """
    said = outputs.argmax(dim=1) if outputs.shape[1] > 1 else (outputs[:, 0] > 0.5).long()
    return float((said == wanted.reshape(len(said)).long()).double().mean())


def logit_accuracy(outputs: Tensor, wanted: Tensor) -> float:
    """Return the share of rows whose class is right, where one output above zero says class 1."""
    return accuracy(outputs.sigmoid() if outputs.shape[1] == 1 else outputs, wanted)


def bits(outputs: Tensor, wanted: Tensor) -> float:
    """Return the share of numbers that are on the right side of a half."""
    return float(((outputs > 0.5) == (wanted > 0.5)).double().mean())


def explained(outputs: Tensor, wanted: Tensor) -> float:
    """Return the share of the variance that is explained; at least -1, which is also what NaN explains."""
    error = (outputs.double() - wanted.double()).square().mean()
    share = 1 - float(error / (wanted.double() - wanted.double().mean(dim=0)).square().mean())
    return max(share, -1.0) if share == share else -1.0
