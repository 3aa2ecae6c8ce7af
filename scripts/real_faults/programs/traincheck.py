"""Silent errors of TrainCheck's record that one process on a CPU can have."""

from dataclasses import replace

from torch import nn

from real_faults import keras
from real_faults.data import digits
from real_faults.keras import convolution, dense
from real_faults.ported import AllFrozenButNormalization, GradientsCleared, GradientsKept, OptimizerMadeBefore
from real_faults.program import Data, Label, Program, Source, Twin, labels
from real_faults.scores import accuracy


def digit_images() -> Data:
    return digits(images=True)


def normalised_convolutions() -> nn.Module:
    return nn.Sequential(
        convolution(1, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.MaxPool2d(2),
        convolution(8, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        dense(64, 10),
    )


CLEARED = Twin(
    network=keras.network((64, 128, 64, 10), nn.ReLU),
    loss=nn.CrossEntropyLoss,
    optimizer=keras.adam(),
    data=digits,
    batch_size=32,
    epochs=6,
    module=GradientsCleared,
)
ALL_TRAINED = Twin(
    network=normalised_convolutions,
    loss=nn.CrossEntropyLoss,
    optimizer=keras.adam(0.005),
    data=digit_images,
    batch_size=64,
    epochs=12,
)
MADE_AFTER = Twin(
    network=keras.network((64, 64, 10), nn.ReLU),
    loss=nn.CrossEntropyLoss,
    optimizer=keras.adam(),
    data=digits,
    batch_size=32,
    epochs=6,
)

PROGRAMS = [
    Program(
        name="tc-60335387",
        source=Source.TRAINCHECK,
        labels=labels(Label.LOOP),
        faulty=replace(CLEARED, module=GradientsKept),
        repaired=CLEARED,
        score=accuracy,
        link="https://stackoverflow.com/questions/60335387",
        note="Dense layers in place of convolutions.",
    ),
    Program(
        name="tc-84911",
        source=Source.TRAINCHECK,
        labels=labels(Label.LOOP, Label.LEARNING_RATE, Label.BATCH_SIZE, Label.PREPROCESSING),
        faulty=replace(
            ALL_TRAINED, module=AllFrozenButNormalization, optimizer=keras.adam(0.01), batch_size=4, epochs=1
        ),
        repaired=ALL_TRAINED,
        score=accuracy,
        link="https://discuss.pytorch.org/t/obtaining-abnormal-changes-in-loss-and-accuracy/84911",
        note="A small network in place of EfficientNet; the images are not resized.",
    ),
    Program(
        name="tc-accelerate-2665",
        source=Source.TRAINCHECK,
        labels=labels(Label.LOOP),
        faulty=replace(MADE_AFTER, module=OptimizerMadeBefore),
        repaired=MADE_AFTER,
        score=accuracy,
        link="https://github.com/huggingface/accelerate/issues/2665",
        note="A copy of the network takes its place, as a wrapper with flattened parameters does.",
    ),
]
