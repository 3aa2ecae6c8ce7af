"""Programs of DeepFD's benchmark that answer yes or no with one unit."""

from dataclasses import replace

import torch
from torch import nn

from real_faults import keras
from real_faults.data import as_one_hot, binary, constant_rows, exclusive_or, with_standardised
from real_faults.program import Data, Label, Program, Source, Twin, labels
from real_faults.scores import accuracy

XOR = ((1, 1), (1, 0), (0, 0), (0, 1))
XOR_TWICE = ((1, 1), (0, 0), (1, 0), (0, 1), (1, 1), (0, 0))
POST = "https://stackoverflow.com/questions/"


def identity_codes() -> Data:
    """Return three columns of character codes, as of letters A to F."""
    data = binary(300, (67.0, 67.5, 67.0), (1.7, 1.7, 1.7))
    return replace(data, inputs=data.inputs.round())


def packets() -> Data:
    """Return addresses, lengths, ports and counts of network packets, unscaled."""
    means = (3.2322358e9, 3.2322358e9, 6.0, 128.0, 4.8e5, 2.7e4, 5.0, 6.2e3, 2.3, 0.0, 63.0)
    deviations = (2.8, 0.0, 0.0, 0.0, 1.5e5, 2.8e4, 5.9, 1.9e4, 2.7, 0.0, 81.0)
    return binary(200, means, deviations)


def ordinary_features() -> Data:
    """Return features of ordinary scale, for the posts that show none."""
    return binary(1000, (0.5,) * 20, (0.3,) * 20)


def five_uniform() -> Data:
    inputs = torch.rand(1000, 5)
    side = (inputs - 0.5) @ torch.tensor([[1.0], [-1.0], [0.5], [1.0], [-0.5]])
    return Data(inputs=inputs, targets=(side > 0).float())


def one_wide_feature() -> Data:
    """Return a number between 15,000 and 25,000, and whether it is large."""
    inputs = torch.randint(15_000, 25_000, (800, 1)).float()
    return Data(inputs=inputs, targets=(inputs + 500 * torch.randn(800, 1) > 20_000).float())


def person_features() -> Data:
    """Return ten unscaled columns, some of them in the hundreds."""
    means = (40.0, 200.0, 10.0, 30.0, 500.0, 3.0, 1.0, 75.0, 120.0, 6.0)
    deviations = (12.0, 90.0, 3.0, 8.0, 250.0, 1.0, 0.5, 20.0, 40.0, 2.0)
    return binary(600, means, deviations)


def speeches() -> Data:
    """Return counts of up to 1e5 beside ratios below 1, of two classes."""
    means = (2.6e5, 37.0, 37.0, 15.0, 16.0, 16.0, 1.3e4, 9.3e4, 2.5, 54.0, 19.0, 22.0, 8.4e4, -0.3, -0.2, 0.5)
    deviations = (2.8e5, 0.8, 0.8, 8.0, 4.0, 4.0, 1.0e4, 1.2e5, 0.1, 3.0, 6.0, 7.0, 2.2e4, 0.3, 0.2, 0.3)
    return as_one_hot(binary(320, means, deviations))


PROGRAMS = [
    Program(
        name="so-31556268",
        source=Source.DEEPFD,
        labels=labels(Label.LOSS, Label.EPOCHS, Label.LEARNING_RATE, Label.OPTIMIZER),
        faulty=Twin(
            network=keras.network((2, 4, 1), nn.Sigmoid, nn.Sigmoid),
            loss=nn.L1Loss,
            optimizer=keras.sgd(0.05, momentum=0.11),
            data=lambda: exclusive_or(XOR),
            batch_size=4,
            epochs=1000,
        ),
        repaired=Twin(
            network=keras.network((2, 4, 1), nn.Sigmoid, nn.Sigmoid),
            loss=nn.MSELoss,
            optimizer=keras.adam(0.03),
            data=lambda: exclusive_or(XOR),
            batch_size=4,
            epochs=1000,
        ),
        score=accuracy,
        link=f"{POST}31556268",
        note="The repair trains 10,000 steps at 0.001; here fewer at a rate that much larger.",
    ),
    Program(
        name="so-34311586",
        source=Source.DEEPFD,
        labels=labels(Label.LEARNING_RATE, Label.ACTIVATION, Label.INITIALIZATION, Label.EPOCHS, Label.BATCH_SIZE),
        faulty=Twin(
            network=keras.network((2, 2, 3, 1), nn.Sigmoid, keras.softmax, initializer="uniform"),
            loss=nn.MSELoss,
            optimizer=keras.sgd(0.001, momentum=0.9),
            data=lambda: exclusive_or(XOR_TWICE),
            batch_size=32,
            epochs=20,
        ),
        repaired=Twin(
            network=keras.network((2, 2, 3, 1), nn.Sigmoid, nn.Sigmoid),
            loss=nn.MSELoss,
            optimizer=keras.adam(0.05),
            data=lambda: exclusive_or(XOR_TWICE),
            batch_size=4,
            epochs=500,
        ),
        score=accuracy,
        link=f"{POST}34311586",
        note="The repair trains 20,000 steps; here the settings that it changes are changed further.",
    ),
    Program(
        name="so-31880720",
        source=Source.DEEPFD,
        labels=labels(Label.ACTIVATION, Label.EPOCHS),
        faulty=Twin(
            network=keras.network((128, 50, 50, 1), nn.ReLU, keras.softmax, dropout=0.2),
            loss=nn.BCELoss,
            optimizer=keras.rmsprop(),
            data=constant_rows,
            batch_size=16,
            epochs=3,
        ),
        repaired=Twin(
            network=keras.network((128, 50, 50, 1), nn.ReLU, nn.Sigmoid, dropout=0.2),
            loss=nn.BCELoss,
            optimizer=keras.rmsprop(),
            data=constant_rows,
            batch_size=16,
            epochs=3,
        ),
        score=accuracy,
        link=f"{POST}31880720",
        note="A tenth of the rows.",
    ),
    Program(
        name="so-39525358",
        source=Source.DEEPFD,
        labels=labels(Label.ACTIVATION, Label.LEARNING_RATE, Label.PREPROCESSING),
        faulty=Twin(
            network=keras.network((3, 12, 3, 1), nn.ReLU, initializer="uniform"),
            loss=keras.ClippedBinaryCrossEntropy,
            optimizer=keras.adam(),
            data=identity_codes,
            batch_size=10,
            epochs=14,
        ),
        repaired=Twin(
            network=keras.network((3, 12, 3, 1), nn.ReLU, nn.Sigmoid, initializer="uniform"),
            loss=nn.BCELoss,
            optimizer=keras.adam(0.01),
            data=lambda: with_standardised(identity_codes()),
            batch_size=10,
            epochs=14,
        ),
        score=accuracy,
        link=f"{POST}39525358",
        note="The two published repairs have a rate of 0.1 and of 0.001; here it is 0.01.",
    ),
    Program(
        name="so-45337371",
        source=Source.DEEPFD,
        labels=labels(Label.ACTIVATION),
        faulty=Twin(
            network=keras.network((5, 60, 50, 1), nn.ReLU, keras.softmax),
            loss=nn.BCELoss,
            optimizer=keras.adam(),
            data=five_uniform,
            batch_size=10,
            epochs=5,
        ),
        repaired=Twin(
            network=keras.network((5, 60, 50, 1), nn.ReLU, nn.Sigmoid),
            loss=nn.BCELoss,
            optimizer=keras.adam(),
            data=five_uniform,
            batch_size=10,
            epochs=5,
        ),
        score=accuracy,
        link=f"{POST}45337371",
        note="Targets that can be learned; the post has none.",
    ),
    Program(
        name="so-42800203",
        source=Source.DEEPFD,
        labels=labels(Label.ACTIVATION),
        faulty=Twin(
            network=keras.network((20, 64, 32, 1), nn.ReLU, keras.softmax),
            loss=nn.BCELoss,
            optimizer=keras.adam(),
            data=ordinary_features,
            batch_size=32,
            epochs=15,
        ),
        repaired=Twin(
            network=keras.network((20, 64, 32, 1), nn.ReLU, nn.Sigmoid),
            loss=nn.BCELoss,
            optimizer=keras.adam(),
            data=ordinary_features,
            batch_size=32,
            epochs=15,
        ),
        score=accuracy,
        link=f"{POST}42800203",
        note="The record has the patch of the last layer alone; layers before it and data are a stand-in.",
    ),
    Program(
        name="so-45442843",
        source=Source.DEEPFD,
        labels=labels(Label.LOSS, Label.OPTIMIZER, Label.ACTIVATION, Label.EPOCHS),
        faulty=Twin(
            network=keras.network((1, 1, 1), nn.Sigmoid, keras.softmax, initializer=("glorot_uniform", "normal")),
            loss=nn.L1Loss,
            optimizer=keras.rmsprop(),
            data=one_wide_feature,
            batch_size=200,
            epochs=100,
        ),
        repaired=Twin(
            network=keras.network((1, 1, 1), nn.Sigmoid, nn.Sigmoid, initializer=("glorot_uniform", "normal")),
            loss=nn.BCELoss,
            optimizer=keras.adam(0.03),
            data=lambda: with_standardised(one_wide_feature()),
            batch_size=200,
            epochs=150,
        ),
        score=accuracy,
        link=f"{POST}45442843",
        note="The published repairs change loss, optimizer and activation, and scale; here the rate is larger, as "
        "they train longer. The targets depend on the input.",
    ),
    Program(
        name="so-44066044",
        source=Source.DEEPFD,
        labels=labels(Label.PREPROCESSING),
        faulty=Twin(
            network=keras.network((11, 12, 12, 1), nn.ReLU, nn.ReLU, initializer="normal"),
            loss=keras.ClippedBinaryCrossEntropy,
            optimizer=keras.adam(),
            data=packets,
            batch_size=5,
            epochs=15,
        ),
        repaired=Twin(
            network=keras.network((11, 12, 12, 1), nn.ReLU, nn.Sigmoid, initializer="normal"),
            loss=nn.BCELoss,
            optimizer=keras.adam(),
            data=lambda: with_standardised(packets()),
            batch_size=5,
            epochs=25,
        ),
        score=accuracy,
        link=f"{POST}44066044",
        note="200 rows in place of 21, of the same columns.",
    ),
    Program(
        name="so-46995209",
        source=Source.DEEPFD,
        labels=labels(Label.ACTIVATION, Label.PREPROCESSING, Label.LAYERS),
        faulty=Twin(
            network=keras.network((10, 10, 90, *(10,) * 9, 1), (nn.Tanh, nn.Tanh, *(nn.ReLU,) * 9), nn.Sigmoid),
            loss=nn.BCELoss,
            optimizer=keras.adam(),
            data=person_features,
            batch_size=32,
            epochs=25,
        ),
        repaired=Twin(
            network=keras.network((10, 10, 25, 1), nn.ReLU, nn.Sigmoid),
            loss=nn.BCELoss,
            optimizer=keras.adam(),
            data=lambda: with_standardised(person_features()),
            batch_size=32,
            epochs=25,
        ),
        score=accuracy,
        link=f"{POST}46995209",
        note="The record has the hidden layers and the scaling; output, loss and columns are a stand-in.",
    ),
    Program(
        name="so-34673164",
        source=Source.DEEPFD,
        labels=labels(Label.LAYERS, Label.ACTIVATION, Label.LOSS),
        faulty=Twin(
            network=keras.network((16, 64, 64, 2), nn.Tanh, keras.softmax, initializer="uniform", dropout=0.5),
            loss=nn.MSELoss,
            optimizer=keras.sgd(0.1, momentum=0.9),
            data=speeches,
            batch_size=16,
            epochs=20,
        ),
        repaired=Twin(
            network=keras.network(
                (16, 64, 64, 2),
                nn.Tanh,
                nn.Sigmoid,
                initializer="uniform",
                dropout=0.5,
                first=(lambda: nn.BatchNorm1d(16),),
            ),
            loss=nn.BCELoss,
            optimizer=keras.sgd(0.1, momentum=0.9),
            data=speeches,
            batch_size=16,
            epochs=20,
        ),
        score=accuracy,
        link=f"{POST}34673164",
        note="320 rows in place of nine, of the same columns.",
    ),
]
