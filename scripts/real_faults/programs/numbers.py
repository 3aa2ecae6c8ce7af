"""Programs of DeepFD's benchmark that predict numbers."""

import torch
from torch import nn

from real_faults import keras
from real_faults.data import curve, regression, with_standardised
from real_faults.program import Data, Label, Program, Source, Twin, labels
from real_faults.scores import explained

POST = "https://stackoverflow.com/questions/"


def cubic_noise() -> Data:
    """Return a parabola of up to 125 with a few strong deviations."""
    data = curve(0.0, 4.9, 50, (0.0, 0.0, 5.0))
    return Data(inputs=data.inputs, targets=data.targets + torch.randn(50, 1) ** 3)


def fourth_power() -> Data:
    return curve(-100.0, 99.5, 400, (0.0, 0.0, 0.0, 0.0, 1.0))


def faces() -> Data:
    """Return pixels of a bright spot on a dark ground, and where it lies, fifteen times over, in [-1, 1]."""
    places = 2 * torch.rand(600, 2) - 1
    grid = torch.linspace(-1, 1, 24)
    down, along = grid[None, :, None] - places[:, :1, None], grid[None, None, :] - places[:, 1:, None]
    pixels = (-(down**2 + along**2) / 0.1).exp() * 0.8 + 0.1 * torch.rand(600, 24, 24)
    return Data(inputs=pixels.flatten(1), targets=places.repeat(1, 15))


def far_targets() -> Data:
    """Return two standard numbers and a smooth function of them between 0 and 60."""
    data = regression(400, 2, mean=30.0, deviation=10.0)
    return Data(inputs=data.inputs, targets=data.targets.clamp(0, 60))


def between_0_and_1() -> Data:
    data = far_targets()
    low, high = data.inputs.min(dim=0).values, data.inputs.max(dim=0).values
    span = data.targets.max() - data.targets.min()
    return Data(inputs=(data.inputs - low) / (high - low), targets=(data.targets - data.targets.min()) / span)


PROGRAMS = [
    Program(
        name="so-46642627",
        source=Source.DEEPFD,
        labels=labels(Label.OPTIMIZER, Label.LEARNING_RATE, Label.LOSS, Label.PREPROCESSING),
        faulty=Twin(
            network=keras.network((2, 16, 16, 1), nn.ReLU),
            loss=nn.BCEWithLogitsLoss,
            optimizer=keras.sgd(),
            data=far_targets,
            batch_size=32,
            epochs=40,
        ),
        repaired=Twin(
            network=keras.network((2, 16, 16, 1), nn.ReLU, nn.Sigmoid),
            loss=nn.MSELoss,
            optimizer=keras.adam(),
            data=between_0_and_1,
            batch_size=32,
            epochs=40,
        ),
        score=explained,
        link=f"{POST}46642627",
        note="The record has loss, optimizer, scaling, three layers, and tools' words of a bounded last one; "
        "the rest is a stand-in. Sigmoid and loss are one, because PyTorch refuses such targets where they are two.",
    ),
    Program(
        name="so-47932589",
        source=Source.DEEPFD,
        labels=labels(Label.PREPROCESSING),
        faulty=Twin(
            network=keras.network((2, 16, 1), nn.ReLU, nn.Sigmoid),
            loss=nn.MSELoss,
            optimizer=keras.adam(),
            data=far_targets,
            batch_size=32,
            epochs=40,
        ),
        repaired=Twin(
            network=keras.network((2, 16, 1), nn.ReLU, nn.Sigmoid),
            loss=nn.MSELoss,
            optimizer=keras.adam(),
            data=between_0_and_1,
            batch_size=32,
            epochs=40,
        ),
        score=explained,
        link=f"{POST}47932589",
        note="The record has the scaling of inputs and targets to [0, 1], and tools' words of small inputs and of a "
        "bounded last layer; the rest is a stand-in.",
    ),
    Program(
        name="so-48251943",
        source=Source.DEEPFD,
        labels=labels(Label.ACTIVATION),
        faulty=Twin(
            network=keras.network((2, 4, 1), nn.ReLU, nn.ReLU),
            loss=nn.MSELoss,
            optimizer=keras.sgd(),
            data=lambda: regression(17, 2, mean=0.0, deviation=0.4),
            batch_size=10,
            epochs=250,
        ),
        repaired=Twin(
            network=keras.network((2, 4, 1), nn.ReLU, nn.Tanh),
            loss=nn.MSELoss,
            optimizer=keras.sgd(),
            data=lambda: regression(17, 2, mean=0.0, deviation=0.4),
            batch_size=10,
            epochs=250,
        ),
        score=explained,
        link=f"{POST}48251943",
        note="Targets within tanh's range, so that the patch fits them: those published reach 2.7.",
    ),
    Program(
        name="so-48934338",
        source=Source.DEEPFD,
        labels=labels(Label.LEARNING_RATE),
        faulty=Twin(
            network=keras.network((1, 50, 30, 1), nn.ReLU, initializer=("glorot_uniform", "uniform", "glorot_uniform")),
            loss=nn.MSELoss,
            optimizer=keras.sgd(0.1),
            data=cubic_noise,
            batch_size=32,
            epochs=300,
        ),
        repaired=Twin(
            network=keras.network((1, 50, 30, 1), nn.ReLU, initializer=("glorot_uniform", "uniform", "glorot_uniform")),
            loss=nn.MSELoss,
            optimizer=keras.sgd(1e-4),
            data=cubic_noise,
            batch_size=32,
            epochs=300,
        ),
        score=explained,
        link=f"{POST}48934338",
    ),
    Program(
        name="so-52800582",
        source=Source.DEEPFD,
        labels=labels(Label.PREPROCESSING),
        faulty=Twin(
            network=keras.network((1, 50, 50, 1), (nn.Sigmoid, nn.ELU)),
            loss=nn.MSELoss,
            optimizer=keras.adam(),
            data=fourth_power,
            batch_size=400,
            epochs=400,
        ),
        repaired=Twin(
            network=keras.network((1, 50, 50, 1), (nn.Sigmoid, nn.ELU)),
            loss=nn.MSELoss,
            optimizer=keras.adam(),
            data=lambda: with_standardised(fourth_power(), targets=True),
            batch_size=400,
            epochs=600,
        ),
        score=explained,
        link=f"{POST}52800582",
    ),
    Program(
        name="so-48221692",
        source=Source.DEEPFD,
        labels=labels(Label.ACTIVATION),
        faulty=Twin(
            network=keras.network((1, 5, 1), nn.Sigmoid, nn.Sigmoid),
            loss=nn.MSELoss,
            optimizer=keras.sgd(),
            data=lambda: curve(-10.0, 10.0, 150, (3.0, 0.0, 1.0)),
            batch_size=150,
            epochs=600,
        ),
        repaired=Twin(
            network=keras.network((1, 5, 1), nn.Sigmoid),
            loss=nn.MSELoss,
            optimizer=keras.sgd(),
            data=lambda: curve(-10.0, 10.0, 150, (3.0, 0.0, 1.0)),
            batch_size=150,
            epochs=600,
        ),
        score=explained,
        link=f"{POST}48221692",
    ),
    Program(
        name="so-44998910",
        source=Source.DEEPFD,
        labels=labels(Label.LEARNING_RATE, Label.EPOCHS),
        faulty=Twin(
            network=keras.network((1, 1), nn.Identity),
            loss=nn.MSELoss,
            optimizer=keras.sgd(),
            data=lambda: curve(0.0, 1.0, 100, (2.0, 3.0)),
            batch_size=32,
            epochs=10,
        ),
        repaired=Twin(
            network=keras.network((1, 1), nn.Identity),
            loss=nn.MSELoss,
            optimizer=keras.sgd(0.03),
            data=lambda: curve(0.0, 1.0, 100, (2.0, 3.0)),
            batch_size=32,
            epochs=150,
        ),
        score=explained,
        link=f"{POST}44998910",
        note="The record has one linear layer, loss and optimizer; the line to fit is a stand-in.",
    ),
    Program(
        name="so-51181393",
        source=Source.DEEPFD,
        labels=labels(Label.LEARNING_RATE),
        faulty=Twin(
            network=keras.network((1, 1), nn.Identity),
            loss=nn.MSELoss,
            optimizer=keras.rmsprop(),
            data=lambda: curve(1.0, 2.0, 80, (0.0, 5.0)),
            batch_size=32,
            epochs=200,
        ),
        repaired=Twin(
            network=keras.network((1, 1), nn.Identity),
            loss=nn.MSELoss,
            optimizer=keras.rmsprop(0.1),
            data=lambda: curve(1.0, 2.0, 80, (0.0, 5.0)),
            batch_size=32,
            epochs=200,
        ),
        score=explained,
        link=f"{POST}51181393",
    ),
    Program(
        name="gh-FacialKeypointsDetection",
        source=Source.DEEPFD,
        labels=labels(Label.OPTIMIZER, Label.EPOCHS),
        faulty=Twin(
            network=keras.network((576, 50, 100, 30), nn.Identity),
            loss=nn.MSELoss,
            optimizer=keras.adam(0.1),
            data=faces,
            batch_size=32,
            epochs=12,
        ),
        repaired=Twin(
            network=keras.network((576, 50, 100, 30), nn.Identity),
            loss=nn.MSELoss,
            optimizer=keras.sgd(0.01, momentum=0.9),
            data=faces,
            batch_size=32,
            epochs=30,
        ),
        score=explained,
        link="https://github.com/Wardat-ISU/DeepLocalize",
        note="Pixels of 24 × 24 in place of 96 × 96, of drawn spots in place of faces.",
    ),
]
