"""Statistics of activations, unit by unit, as torchmetrics metrics, so that they reduce over ranks by themselves."""
