"""A LightningModule as anyone writes it, and the callbacks added to its Trainer. Runs in a few seconds.

python examples/add_to_trainer.py
"""

import lightning
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_gradtools import GradientClipping, GradientMonitor, WarmupCosineSchedule


class Net(lightning.LightningModule):
    """An MLP on handwritten digits."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10))

    def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Return the batch's cross-entropy."""
        images, labels = batch
        loss = F.cross_entropy(self.net(images), labels)
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return the optimizer."""
        return torch.optim.AdamW(self.parameters(), lr=3e-3)


def main() -> None:
    """Train, then read the monitor's own record: which layer's gradient is largest?"""
    lightning.seed_everything(0)
    digits = load_digits()
    data = TensorDataset(torch.tensor(digits.data / 16, dtype=torch.float32), torch.tensor(digits.target))
    monitor = GradientMonitor(log_every_n_steps=10, group_by="module", progress_bar=True)
    trainer = lightning.Trainer(
        max_epochs=10,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        callbacks=[monitor, GradientClipping(max_norm=1.0), WarmupCosineSchedule()],
    )
    trainer.fit(Net(), DataLoader(data, batch_size=64, shuffle=True))

    first, last = monitor.history[0], monitor.history[-1]
    print(f"\n{'gradient norm of':<24}{f'step {first.step}':>12}{f'step {last.step}':>12}")
    for key in first.values:
        if key.startswith("grad_norm/"):
            print(f"{key.removeprefix('grad_norm/'):<24}{first.values[key]:>12.4f}{last.values[key]:>12.4f}")


if __name__ == "__main__":
    main()
