"""The learning rate as a function of the optimizer step."""

from lightning_gradtools.schedules.length import Length, check_length, steps_in
from lightning_gradtools.schedules.warmup_cosine import WarmupCosine, WarmupCosineLR

__all__ = ["Length", "WarmupCosine", "WarmupCosineLR", "check_length", "steps_in"]
