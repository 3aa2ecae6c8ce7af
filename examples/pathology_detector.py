"""A network that does not learn, the layer that is to blame, and the remedy: the same run before and after it."""

import lightning
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_gradtools import PathologyDetector

images, labels = load_digits(return_X_y=True)
digits = TensorDataset(torch.tensor(images / 8 - 1, dtype=torch.float32), torch.tensor(labels))


class Classifier(lightning.LightningModule):
    """Eight hidden layers of one activation."""

    def __init__(self, activation: type[nn.Module]) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Linear(64, 32), activation()]
        for _ in range(7):
            layers += [nn.Linear(32, 32), activation()]
        for layer in layers[::2]:
            if activation is nn.ReLU and isinstance(layer, nn.Linear):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        self.net = nn.Sequential(*layers, nn.Linear(32, 10))

    def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Return the loss."""
        x, y = batch
        return nn.functional.cross_entropy(self.net(x), y)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return Adam."""
        return torch.optim.Adam(self.parameters(), lr=1e-3)


for activation in (nn.Sigmoid, nn.ReLU):
    lightning.seed_everything(0, verbose=False)
    detector = PathologyDetector(on_warning="log", on_critical="log", table=False)
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_steps=120,
        max_epochs=-1,
        callbacks=[detector],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Classifier(activation), DataLoader(digits, batch_size=64, shuffle=True))
    found = [finding for finding in detector.findings if finding.severity >= "warning"]
    print(f"\n{activation.__name__}: {len(found)} findings")
    for finding in found:
        print(f"  step {finding.step}, {finding.severity}, {finding.kind} in {finding.layer or 'the whole model'}:")
        print(f"    {finding.message}")
        print(f"    -> {finding.remedy[0].sentence} {finding.remedy[0].code}")
