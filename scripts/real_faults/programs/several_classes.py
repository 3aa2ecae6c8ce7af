"""Programs of DeepFD's benchmark that choose among classes, or label with several, by dense layers."""

from dataclasses import replace

import torch
from torch import nn

from real_faults import keras
from real_faults.data import (
    binary,
    digits,
    iris,
    several_labels,
    with_standardised,
)
from real_faults.program import Data, Label, Program, Source, Twin, labels
from real_faults.scores import accuracy, bits

POST = "https://stackoverflow.com/questions/"
GREY = 255.0


def two_clouds() -> Data:
    """Return points of two squares that do not touch."""
    targets = torch.arange(200) % 2
    inputs = torch.where(targets[:, None] == 0, 0.2 + 0.2 * torch.rand(200, 2), 0.5 + 0.2 * torch.rand(200, 2))
    return Data(inputs=inputs, targets=targets)


def adults() -> Data:
    """Return columns as of a census: years, codes, a weight of 1e5, gains of up to 1e5 and hours; and two classes."""
    means = (38.6, 3.9, 1.9e5, 10.3, 10.1, 2.6, 6.6, 1.4, 3.7, 0.7, 1077.0, 87.0, 40.0, 36.7)
    deviations = (13.6, 1.5, 1.05e5, 3.9, 2.6, 1.5, 4.2, 1.6, 0.8, 0.5, 7385.0, 403.0, 12.0, 7.8)
    data = binary(3000, means, deviations)
    return replace(data, inputs=data.inputs.abs(), targets=data.targets[:, 0].long())


def few_digits() -> Data:
    data = digits()
    chosen = torch.randperm(len(data.inputs))[:300]
    return Data(inputs=data.inputs[chosen], targets=data.targets[chosen])


PROGRAMS = [
    Program(
        name="so-41977498",
        source=Source.DEEPFD,
        labels=labels(Label.OPTIMIZER, Label.LEARNING_RATE, Label.EPOCHS),
        faulty=Twin(
            network=keras.network((64, 32, 10), nn.ReLU),
            loss=nn.CrossEntropyLoss,
            optimizer=keras.rmsprop(),
            data=few_digits,
            batch_size=32,
            epochs=10,
        ),
        repaired=Twin(
            network=keras.network((64, 32, 10), nn.ReLU),
            loss=nn.CrossEntropyLoss,
            optimizer=keras.adam(0.01),
            data=few_digits,
            batch_size=32,
            epochs=100,
        ),
        score=accuracy,
        link=f"{POST}41977498",
        note="The record has optimizer, loss and epochs; layers and data are a stand-in.",
    ),
    Program(
        name="so-48385830",
        source=Source.DEEPFD,
        labels=labels(Label.ACTIVATION, Label.LOSS, Label.LEARNING_RATE),
        faulty=Twin(
            network=keras.network((64, 30, 10), nn.Identity, initializer="standard_normal"),
            loss=nn.MSELoss,
            optimizer=keras.sgd(3.0),
            data=lambda: digits(one_hot=True),
            batch_size=10,
            epochs=2,
        ),
        repaired=Twin(
            network=keras.network((64, 30, 10), nn.Sigmoid, initializer="standard_normal"),
            loss=nn.CrossEntropyLoss,
            optimizer=keras.sgd(0.3),
            data=digits,
            batch_size=10,
            epochs=2,
        ),
        score=accuracy,
        link=f"{POST}48385830",
        note="The learning rate is among the record's faults, but not in its patch; here it is a tenth after repair.",
    ),
    Program(
        name="so-44164749",
        source=Source.DEEPFD,
        labels=labels(Label.EPOCHS, Label.LEARNING_RATE, Label.ACTIVATION, Label.LOSS),
        faulty=Twin(
            network=keras.network((64, 500, 60, 10), nn.ReLU, dropout=0.1),
            loss=nn.CrossEntropyLoss,
            optimizer=keras.sgd(0.01, momentum=0.9),
            data=digits,
            batch_size=60,
            epochs=5,
        ),
        repaired=Twin(
            network=keras.network((64, 500, 60, 10), nn.ReLU, dropout=0.1),
            loss=nn.CrossEntropyLoss,
            optimizer=keras.sgd(0.05, momentum=0.9),
            data=digits,
            batch_size=60,
            epochs=10,
        ),
        score=accuracy,
        link=f"{POST}44164749",
        note="A tenth of the widths. Of its patch the record says that activation and loss change little: left out.",
    ),
    Program(
        name="so-50306988",
        source=Source.DEEPFD,
        labels=labels(Label.LEARNING_RATE, Label.EPOCHS),
        faulty=Twin(
            network=keras.network((2, 2, 2), nn.Sigmoid),
            loss=nn.CrossEntropyLoss,
            optimizer=keras.adam(0.001),
            data=two_clouds,
            batch_size=32,
            epochs=5,
        ),
        repaired=Twin(
            network=keras.network((2, 2, 2), nn.Sigmoid),
            loss=nn.CrossEntropyLoss,
            optimizer=keras.adam(0.05),
            data=two_clouds,
            batch_size=32,
            epochs=50,
        ),
        score=accuracy,
        link=f"{POST}50306988",
        note="The patch has a rate of 0.01 and 10 epochs, after which little is learned; here both change further.",
    ),
    Program(
        name="so-38648195",
        source=Source.DEEPFD,
        labels=labels(Label.ACTIVATION, Label.LOSS, Label.EPOCHS),
        faulty=Twin(
            network=keras.network((20, 20, 20, 3), nn.ReLU, keras.softmax, dropout=0.5),
            loss=nn.MSELoss,
            optimizer=keras.sgd(),
            data=lambda: several_labels(2000, 20, 3),
            batch_size=20,
            epochs=4,
        ),
        repaired=Twin(
            network=keras.network((20, 20, 20, 3), nn.ReLU, nn.Sigmoid, dropout=0.5),
            loss=nn.BCELoss,
            optimizer=keras.sgd(),
            data=lambda: several_labels(2000, 20, 3),
            batch_size=20,
            epochs=8,
        ),
        score=bits,
        link=f"{POST}38648195",
        note="A twenty-fourth of the rows.",
    ),
    Program(
        name="so-55328966",
        source=Source.DEEPFD,
        labels=labels(Label.ACTIVATION, Label.OPTIMIZER, Label.PREPROCESSING),
        faulty=Twin(
            network=keras.network((64, 64, 50, 10), (nn.Identity, nn.ReLU), nn.Sigmoid),
            loss=nn.CrossEntropyLoss,
            optimizer=keras.sgd(1e-4),
            data=lambda: digits(scale=GREY),
            batch_size=32,
            epochs=10,
        ),
        repaired=Twin(
            network=keras.network((64, 64, 50, 10), (nn.Identity, nn.ReLU)),
            loss=nn.CrossEntropyLoss,
            optimizer=keras.adam(1e-4),
            data=digits,
            batch_size=32,
            epochs=20,
        ),
        score=accuracy,
        link=f"{POST}55328966",
    ),
    Program(
        name="so-47724077",
        source=Source.DEEPFD,
        labels=labels(Label.OPTIMIZER, Label.LEARNING_RATE, Label.PREPROCESSING, Label.EPOCHS),
        faulty=Twin(
            network=keras.network((14, 21, 2), nn.ReLU),
            loss=nn.CrossEntropyLoss,
            optimizer=keras.adam(),
            data=adults,
            batch_size=100,
            epochs=15,
        ),
        repaired=Twin(
            network=keras.network((14, 21, 2), nn.ReLU),
            loss=nn.CrossEntropyLoss,
            optimizer=keras.adam(0.01),
            data=lambda: with_standardised(adults()),
            batch_size=100,
            epochs=15,
        ),
        score=accuracy,
        link=f"{POST}47724077",
        note="3,000 rows drawn with the means and deviations of the columns.",
    ),
    Program(
        name="so-59278771",
        source=Source.DEEPFD,
        labels=labels(Label.ACTIVATION, Label.OPTIMIZER, Label.PREPROCESSING),
        faulty=Twin(
            network=keras.network((4, 4, 3), nn.ReLU, nn.Sigmoid, initializer="normal"),
            loss=nn.CrossEntropyLoss,
            optimizer=keras.adam(),
            data=iris,
            batch_size=5,
            epochs=30,
        ),
        repaired=Twin(
            network=keras.network((4, 4, 3), nn.SELU, initializer="normal"),
            loss=nn.CrossEntropyLoss,
            optimizer=keras.sgd(0.01),
            data=lambda: iris(scaled=True),
            batch_size=5,
            epochs=40,
        ),
        score=accuracy,
        link=f"{POST}59278771",
        note="A fifth of the epochs or fewer.",
    ),
]
