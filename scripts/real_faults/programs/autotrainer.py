"""Networks of AutoTrainer's benchmark on blobs and circles, beside the network that its faulty ones were made from.

A label is what the faulty network differs in from that one.
"""

from collections.abc import Callable

import torch
from sklearn.datasets import make_blobs, make_circles
from torch import nn

from real_faults import keras
from real_faults.program import Data, Label, Program, Source, Twin, labels
from real_faults.scores import logit_accuracy

LINK = "https://github.com/DeepDiagnosis/ICSE2022"
UNITS = 5


def _data(inputs: object, targets: object, *, column: bool) -> Data:
    names = torch.as_tensor(targets)
    points = torch.as_tensor(inputs).float()
    return Data(inputs=points, targets=names[:, None].float() if column else names)


def circles() -> Data:
    """Return points of two circles, one within the other."""
    return _data(*make_circles(1000, noise=0.1, random_state=int(torch.randint(2**31, ()))), column=True)


def blobs() -> Data:
    """Return points of three clouds that touch."""
    seed = int(torch.randint(2**31, ()))
    return _data(*make_blobs(1000, centers=3, cluster_std=2.0, random_state=seed), column=False)


def _twin(
    data: Callable[[], Data], hidden: Callable[[], nn.Module], depth: int, initializer: str = "he_uniform"
) -> Twin:
    outputs, loss = (1, nn.BCEWithLogitsLoss) if data is circles else (3, nn.CrossEntropyLoss)
    return Twin(
        network=keras.network(
            (2, *(UNITS,) * depth, outputs), hidden, initializer=(*(initializer,) * depth, "he_uniform")
        ),
        loss=loss,
        optimizer=keras.adam(),
        data=data,
        batch_size=128 if data is circles else 256,
        epochs=60 if data is circles else 120,
    )


def _program(name: str, data: Callable[[], Data], hidden: Callable[[], nn.Module], depth: int, **more: str) -> Program:
    wrong = {Label.ACTIVATION, Label.LAYERS} | ({Label.INITIALIZATION} if more else set())
    return Program(
        name=f"at-{name}",
        source=Source.AUTOTRAINER,
        labels=labels(*wrong),
        faulty=_twin(data, hidden, depth, **more),
        repaired=_twin(data, nn.Tanh, 5),
        score=logit_accuracy,
        link=LINK,
    )


exponential: Callable[[], nn.Module] = keras.Exponential
SMALL = {"initializer": "uniform"}

PROGRAMS = [
    _program("circle-0ae2cd88", circles, exponential, 8),
    _program("circle-0eb8d545", circles, exponential, 11),
    _program("circle-5ab0aeda", circles, nn.Sigmoid, 11),
    _program("circle-8e28bdef", circles, nn.ReLU, 16),
    _program("circle-8de47bdc", circles, nn.ReLU, 8, **SMALL),
    _program("blob-661b4e86", blobs, exponential, 10),
    _program("blob-2569b90f", blobs, nn.Sigmoid, 11),
    _program("blob-384108d9", blobs, nn.ReLU, 8, **SMALL),
]
