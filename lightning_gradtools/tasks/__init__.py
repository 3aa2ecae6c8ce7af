"""Small real tasks that demonstrations, tests and benchmarks share. Nothing is downloaded.

=============  ==================================================  ==========================
data module    samples                                             module
=============  ==================================================  ==========================
`DigitsData`   1797 images of 8x8 pixels in 10 classes             `Classifier`
`TabularData`  diabetes (numbers); wine, breast_cancer (classes)   `Regressor`, `Classifier`
`TextData`     characters of the Python standard library's source  `LanguageModel`
=============  ==================================================  ==========================

`MLP` and `ResidualMLP` take digits and tables, `CNN` takes digits, `GPT` takes text.
"""

from lightning_gradtools.tasks.classifier import Classifier
from lightning_gradtools.tasks.data import DigitsData, TabularData, TextData
from lightning_gradtools.tasks.language_model import LanguageModel
from lightning_gradtools.tasks.networks import CNN, GPT, MLP, ResidualMLP
from lightning_gradtools.tasks.regressor import Regressor

__all__ = [
    "CNN",
    "GPT",
    "MLP",
    "Classifier",
    "DigitsData",
    "LanguageModel",
    "Regressor",
    "ResidualMLP",
    "TabularData",
    "TextData",
]
