"""Plain PyTorch networks, free of Lightning."""

from lightning_gradtools.tasks.networks.cnn import CNN
from lightning_gradtools.tasks.networks.gpt import GPT
from lightning_gradtools.tasks.networks.mlp import MLP
from lightning_gradtools.tasks.networks.residual_mlp import ResidualMLP

__all__ = ["CNN", "GPT", "MLP", "ResidualMLP"]
