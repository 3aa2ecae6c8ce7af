"""Programs of DeepFD's benchmark with convolutions."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from real_faults import keras
from real_faults.data import digits
from real_faults.keras import convolution, dense
from real_faults.program import Data, Label, Program, Source, Twin, labels
from real_faults.scores import accuracy, bits, logit_accuracy

POST = "https://stackoverflow.com/questions/"
GREY = 255


def digits_divided_with_their_names() -> Data:
    """Return images of digits whose class indices were divided by 255 as their pixels were."""
    data = digits(images=True)
    return Data(inputs=data.inputs, targets=(data.targets / GREY).long(), truth=data.wanted)


def three_damages(*, one_column: bool) -> Data:
    """Return images of three classes, in colour; the class is an index, or the number in a column."""
    data = digits(images=True, classes=3)
    inputs = F.interpolate(data.inputs, scale_factor=2).repeat(1, 3, 1, 1)
    inputs = (0.7 * inputs + 0.3 * torch.rand_like(inputs)).clamp(0, 1)
    targets = data.targets[:, None].float() if one_column else data.targets
    return Data(inputs=inputs, targets=targets, truth=data.targets)


def signs(scale: float = GREY) -> Data:
    """Return colour images in [0, scale], in which a digit stands on a darker ground."""
    data = digits(images=True)
    rows = len(data.inputs)
    ink, ground = 0.5 + 0.5 * torch.rand(rows, 3, 1, 1), 0.5 * torch.rand(rows, 3, 1, 1)
    images = data.inputs * ink + (1 - data.inputs) * ground
    return Data(inputs=scale * F.interpolate(images, scale_factor=2), targets=data.targets)


def volumes() -> Data:
    """Return groups of six volumes, all of ones or all of zeros, and which, in a row of 0 and 1."""
    targets = (torch.arange(240) < 120).long()
    inputs = targets[:, None, None, None, None, None].expand(240, 6, 3, 8, 8, 8).float()
    return Data(inputs=inputs.clone(), targets=targets)


def life() -> Data:
    """Return fields of living and dead cells, padded around the edges, and the fields one generation on."""
    fields = (torch.rand(600, 1, 10, 10) < 0.5).float()
    padded = F.pad(fields, (1, 1, 1, 1), mode="circular")
    neighbours = F.conv2d(padded, torch.ones(1, 1, 3, 3)) - fields
    alive = (neighbours == 3) | ((fields == 1) & (neighbours == 2))
    return Data(inputs=padded, targets=alive.float())


def one_in_three_convolutions(outputs: int) -> nn.Module:
    layers: list[nn.Module] = []
    channels = (3, 8, 8, 16)
    for before, after in pairwise(channels):
        layers += [convolution(before, after, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    layers += [nn.Flatten(), dense(64, 32), nn.ReLU(), nn.Dropout(0.5), dense(32, outputs)]
    return nn.Sequential(*layers)


def two_linear_convolutions() -> nn.Module:
    return nn.Sequential(
        convolution(1, 16, 3, padding=1),
        nn.MaxPool2d(2),
        convolution(16, 8, 3, padding=1),
        nn.MaxPool2d(2),
        nn.Flatten(),
        dense(32, 64),
        nn.ReLU(),
        dense(64, 10),
    )


def biased_convolutions(last: nn.Module | None) -> nn.Module:
    return nn.Sequential(
        convolution(1, 8, 5, padding=2, bias_value=0.1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        convolution(8, 16, 5, padding=2, bias_value=0.1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        dense(64, 128, bias=0.1),
        nn.ReLU(),
        nn.Dropout(0.5),
        dense(128, 10),
        *([last] if last else []),
    )


def doubled_convolutions() -> nn.Module:
    return nn.Sequential(
        convolution(1, 8, 3, padding=1),
        nn.ReLU(),
        convolution(8, 8, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Dropout(0.25),
        convolution(8, 16, 3, padding=1),
        nn.ReLU(),
        convolution(16, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Dropout(0.25),
        nn.Flatten(),
        dense(64, 64),
        nn.ReLU(),
        nn.Dropout(0.5),
        dense(64, 10),
    )


def he_convolutions() -> nn.Module:
    return nn.Sequential(
        convolution(3, 16, 3, initializer="he_normal"),
        nn.ReLU(),
        nn.MaxPool2d(2),
        convolution(16, 64, 3, initializer="he_normal"),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        dense(256, 128),
        nn.ReLU(),
        nn.Dropout(0.3),
        dense(128, 10),
    )


def life_convolutions() -> nn.Module:
    return nn.Sequential(
        convolution(1, 10, 3),
        nn.ReLU(),
        convolution(10, 20, 1),
        nn.ReLU(),
        convolution(20, 1, 1),
        nn.Sigmoid(),
    )


class GroupsThroughOneUnit(nn.Module):
    """A convolution of each volume of a group; its means of a group pass through one rectified unit."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = keras.initialized(nn.Conv3d(3, 16, 4, stride=2, padding=1))
        self.unit = dense(6 * 16, 1)
        self.last = dense(1, 2)

    def forward(self, groups: Tensor) -> Tensor:
        pooled = self.convolution(groups.flatten(0, 1)).relu().mean(dim=(2, 3, 4))
        outputs: Tensor = self.last(self.unit(pooled.reshape(len(groups), -1)).relu())
        return outputs


class VolumesAlone(nn.Module):
    """Two convolutions of one volume and a dense layer of their means."""

    def __init__(self) -> None:
        super().__init__()
        self.first = keras.initialized(nn.Conv3d(3, 16, 4, stride=2, padding=1))
        self.second = keras.initialized(nn.Conv3d(16, 8, 4, stride=2, padding=1))
        self.last = dense(8, 2)

    def forward(self, volumes: Tensor) -> Tensor:
        outputs: Tensor = self.last(self.second(self.first(volumes).relu()).relu().mean(dim=(2, 3, 4)))
        return outputs


def volumes_alone() -> Data:
    data = volumes()
    return Data(inputs=data.inputs[:, 0], targets=data.targets)


PROGRAMS = [
    Program(
        name="so-48594888",
        source=Source.DEEPFD,
        labels=labels(Label.EPOCHS, Label.BATCH_SIZE),
        faulty=Twin(
            network=he_convolutions,
            loss=nn.CrossEntropyLoss,
            optimizer=keras.adam(),
            data=signs,
            batch_size=32,
            epochs=5,
        ),
        repaired=Twin(
            network=he_convolutions,
            loss=nn.CrossEntropyLoss,
            optimizer=keras.adam(),
            data=lambda: signs(1.0),
            batch_size=32,
            epochs=10,
        ),
        score=accuracy,
        link=f"{POST}48594888",
        note="Digits in random colours in place of photographs, fewer channels. One published repair "
        "has more epochs, the other scales as well; both are done.",
    ),
    Program(
        name="so-37213388",
        source=Source.DEEPFD,
        labels=labels(Label.EPOCHS),
        faulty=Twin(
            network=doubled_convolutions,
            loss=nn.CrossEntropyLoss,
            optimizer=keras.adam(),
            data=lambda: digits(images=True),
            batch_size=50,
            epochs=2,
        ),
        repaired=Twin(
            network=doubled_convolutions,
            loss=nn.CrossEntropyLoss,
            optimizer=keras.adam(),
            data=lambda: digits(images=True),
            batch_size=50,
            epochs=10,
        ),
        score=accuracy,
        link=f"{POST}37213388",
        note="The record has the epochs and a softmax at the end; layers, optimizer and data are a stand-in.",
    ),
    Program(
        name="so-59325381",
        source=Source.DEEPFD,
        labels=labels(Label.LOSS, Label.PREPROCESSING),
        faulty=Twin(
            network=two_linear_convolutions,
            loss=nn.CrossEntropyLoss,
            optimizer=keras.adam(),
            data=digits_divided_with_their_names,
            batch_size=32,
            epochs=2,
        ),
        repaired=Twin(
            network=two_linear_convolutions,
            loss=nn.CrossEntropyLoss,
            optimizer=keras.adam(),
            data=lambda: digits(images=True),
            batch_size=32,
            epochs=6,
        ),
        score=accuracy,
        link=f"{POST}59325381",
        note="A quarter of the widths.",
    ),
    Program(
        name="so-50079585",
        source=Source.DEEPFD,
        labels=labels(Label.EPOCHS, Label.LEARNING_RATE, Label.ACTIVATION, Label.LOSS, Label.LAYERS),
        faulty=Twin(
            network=lambda: one_in_three_convolutions(1),
            loss=nn.BCEWithLogitsLoss,
            optimizer=keras.rmsprop(),
            data=lambda: three_damages(one_column=True),
            batch_size=16,
            epochs=5,
        ),
        repaired=Twin(
            network=lambda: one_in_three_convolutions(3),
            loss=nn.CrossEntropyLoss,
            optimizer=keras.rmsprop(),
            data=lambda: three_damages(one_column=False),
            batch_size=16,
            epochs=10,
        ),
        score=logit_accuracy,
        link=f"{POST}50079585",
        note="Images of 16 × 16, a quarter of the widths, half of the epochs; the rate stays, which the record says "
        "matters little. Sigmoid and loss are one, because PyTorch refuses a target of 2 where they are two.",
    ),
    Program(
        name="so-47352366",
        source=Source.DEEPFD,
        labels=labels(Label.ACTIVATION, Label.EPOCHS),
        faulty=Twin(
            network=lambda: biased_convolutions(nn.ReLU()),
            loss=nn.CrossEntropyLoss,
            optimizer=keras.adam(),
            data=lambda: digits(images=True),
            batch_size=50,
            epochs=6,
        ),
        repaired=Twin(
            network=lambda: biased_convolutions(None),
            loss=nn.CrossEntropyLoss,
            optimizer=keras.adam(),
            data=lambda: digits(images=True),
            batch_size=50,
            epochs=12,
        ),
        score=accuracy,
        link=f"{POST}47352366",
        note="A quarter of the widths.",
    ),
    Program(
        name="so-37624102",
        source=Source.DEEPFD,
        labels=labels(Label.LEARNING_RATE),
        faulty=Twin(
            network=doubled_convolutions,
            loss=nn.CrossEntropyLoss,
            optimizer=keras.sgd(0.1, momentum=0.9),
            data=lambda: digits(images=True),
            batch_size=32,
            epochs=8,
        ),
        repaired=Twin(
            network=doubled_convolutions,
            loss=nn.CrossEntropyLoss,
            optimizer=keras.sgd(0.01, momentum=0.9),
            data=lambda: digits(images=True),
            batch_size=32,
            epochs=8,
        ),
        score=accuracy,
        link=f"{POST}37624102",
        note="The record has the optimizer; the layers are those of the guide that it comes from, narrower.",
    ),
    Program(
        name="so-58237726",
        source=Source.DEEPFD,
        labels=labels(Label.LEARNING_RATE, Label.PREPROCESSING),
        faulty=Twin(
            network=GroupsThroughOneUnit,
            loss=nn.CrossEntropyLoss,
            optimizer=keras.adam(0.001),
            data=volumes,
            batch_size=12,
            epochs=6,
        ),
        repaired=Twin(
            network=VolumesAlone,
            loss=nn.CrossEntropyLoss,
            optimizer=keras.adam(0.01),
            data=volumes_alone,
            batch_size=6,
            epochs=6,
        ),
        score=accuracy,
        link=f"{POST}58237726",
        note="Volumes of 8 × 8 × 8 and a quarter of the widths.",
    ),
    Program(
        name="gh-gol_nn",
        source=Source.DEEPFD,
        labels=labels(Label.LOSS, Label.EPOCHS, Label.LEARNING_RATE),
        faulty=Twin(
            network=life_convolutions,
            loss=nn.BCELoss,
            optimizer=keras.adam(),
            data=life,
            batch_size=32,
            epochs=5,
        ),
        repaired=Twin(
            network=life_convolutions,
            loss=nn.MSELoss,
            optimizer=keras.adam(0.01),
            data=life,
            batch_size=32,
            epochs=25,
        ),
        score=bits,
        link="https://github.com/Wardat-ISU/DeepLocalize",
        note="Smaller fields, and fewer of them; therefore the repair has more epochs than the patch's ten.",
    ),
]
