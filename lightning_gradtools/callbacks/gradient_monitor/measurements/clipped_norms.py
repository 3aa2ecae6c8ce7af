"""The norms after clipping, whoever clipped: by arithmetic from those before it where that is possible."""

from collections.abc import Iterator

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.model_helpers import is_overridden

from lightning_gradtools._lightning.gradient_pass import GradientPass
from lightning_gradtools.callbacks.gradient_monitor.report import Section
from lightning_gradtools.gradients.clipping import clip_coefficient
from lightning_gradtools.gradients.norms import gradient_norms, total_norm


def norms_after_clipping(trainer: Trainer, module: LightningModule, seen: GradientPass) -> Iterator[Section]:
    """Yield ``grad_norm_clipped`` if anything clips, and ``trainers_coefficient`` if the Trainer does, by norm.

    To be called after the step. Where one factor scaled all gradients the layers are left out: theirs is the same.
    """
    norms, factors, measure = seen.norms, seen.factors, seen.rewritten
    if factors is None and not measure:
        limit = trainer.gradient_clip_val
        modules_own = is_overridden("configure_gradient_clipping", module, LightningModule)
        if not limit and not modules_own:
            return
        by_norm = trainer.gradient_clip_algorithm in (None, "norm") and norms.norm_type == 2
        measure = modules_own or not by_norm
        if not measure:
            factors = clip_coefficient(norms.total, float(limit or 0))
            yield Section("trainers_coefficient", factors)
    if measure:
        clipped = gradient_norms(norms.parameters, norms.norm_type)
        if len(clipped.per_parameter) == len(norms.per_parameter):
            yield Section("grad_norm_clipped", clipped.total, clipped.per_parameter)
    elif factors is not None and factors.ndim == 0:
        yield Section("grad_norm_clipped", norms.total * factors)
    elif factors is not None:
        per_parameter = norms.per_parameter * factors
        yield Section("grad_norm_clipped", total_norm(per_parameter, norms.norm_type), per_parameter)
