"""The guard that keeps a step whose gradients are not finite from reaching the weights."""

from dataclasses import replace
from math import isfinite

import torch
from lightning.pytorch import Trainer
from torch import Tensor
from torch.optim import SGD, Adagrad, Adam, AdamW, Optimizer
from torch.utils.hooks import RemovableHandle

from lightning_gradtools._lightning.fail_safe import tell
from lightning_gradtools._lightning.gradient_pass import GradientPass, optimizer_parameters
from lightning_gradtools._lightning.module import parameter_names
from lightning_gradtools._lightning.strategy import is_strategy, unscales_itself
from lightning_gradtools.callbacks.gradient_clipping.statistics import ClippingTally
from lightning_gradtools.distributed import any_rank
from lightning_gradtools.gradients.norms import GradientNorms, find_nonfinite, tensor_norms, total_norm


class NonFiniteGuard:
    """Judges every step of one run.

    Args:
        action: ``"skip"`` the step, ``"raise"``, ``"zero"`` its gradients, or None to let it pass.
        max_consecutive_skips: more of them in a row stop the run.
        trainer: the run.
    """

    def __init__(self, action: str | None, max_consecutive_skips: int, trainer: Trainer) -> None:
        self._action, self._max_consecutive_skips, self._trainer = action, max_consecutive_skips, trainer
        # Under DDP all ranks hold the very same gradients; elsewhere a gradient may belong to one rank.
        self._gradients_may_differ = trainer.world_size > 1 and not is_strategy(trainer, "DDPStrategy")
        self._verdicts: dict[Optimizer, Tensor] = {}  # that the next step of each is to obey
        self._hooks: dict[Optimizer, RemovableHandle] = {}

    def admits(self, seen: GradientPass, optimizer: Optimizer, tally: ClippingTally) -> bool:
        """Say whether to clip and take this step; if not, its gradients are dealt with already.

        Where the verdict stays on the device the step is admitted, and the optimizer obeys the verdict.

        Raises:
            FloatingPointError: if that is what is to be done, or after too many skips in a row.
        """
        if self._action is None:
            return True
        step, total, scale = self._trainer.global_step, seen.norms.total, seen.judged_at_scale
        ranks_may_differ = self._gradients_may_differ and not seen.norms.alike
        if scale is not None:
            # The scaler skips it. A scale above 1 is still its search; at 1 the gradients are at fault.
            tally.verdicts.append((step, ~total.isfinite() & (scale.to(total.device) <= 1)))
            return True
        if self._action == "skip" and not seen.is_free_to_read and _takes_verdict(optimizer):
            verdict = any_rank(~total.isfinite()) > 0 if ranks_may_differ else ~total.isfinite()
            tally.verdicts.append((step, verdict))
            self._skip_on_device(optimizer, verdict)
            return True
        sound = not any_rank(~total.isfinite()).item() if ranks_may_differ else isfinite(total.item())
        if sound:
            tally.took(step)
            return True
        gradients = seen.norms.gradients()
        found = find_nonfinite(gradients)
        if found.overflow and not ranks_may_differ:
            seen.measured_anew(_in_float64(seen.norms))
            return True
        self._reject(seen, optimizer, tally, found.nan + found.inf)
        return False

    def _reject(self, seen: GradientPass, optimizer: Optimizer, tally: ClippingTally, faulty: tuple[int, ...]) -> None:
        names = parameter_names(self._trainer.lightning_module)
        where = [names.get(id(seen.norms.parameters[position]), "?") for position in faulty]
        listed = ", ".join(where[:3]) + (f" and {len(where) - 3} more" if len(where) > 3 else "")
        what = f"gradients are not finite at global step {self._trainer.global_step}: {listed or 'on another rank'}"
        if self._action == "raise":
            raise FloatingPointError(f"{what}; {tally.last_good()}")
        tally.missed()
        self.stop_if_hopeless(tally, what)
        if tally.skipped_steps == 1 and self._trainer.is_global_zero:
            done = "skipped" if self._action == "skip" else "taken with zero gradients"
            tell(f"GradientClipping: {what}. The step is {done}; later ones are counted, not announced.")
        for parameter in optimizer_parameters(optimizer):
            if self._action == "skip":
                parameter.grad = None
            elif parameter.grad is not None:
                parameter.grad = torch.zeros_like(parameter.grad)

    def stop_if_hopeless(self, tally: ClippingTally, what: str = "gradients are not finite") -> None:
        """Stop the run if the latest steps were all skipped.

        Raises:
            FloatingPointError: if more than ``max_consecutive_skips`` were; its message begins with ``what``.
        """
        if tally.consecutive_skips > self._max_consecutive_skips:
            raise FloatingPointError(
                f"{what}; {tally.consecutive_skips} steps in a row"
                f" (max_consecutive_skips={self._max_consecutive_skips}), {tally.last_good()}"
            )

    def _skip_on_device(self, optimizer: Optimizer, verdict: Tensor) -> None:
        """Make the next step of ``optimizer``, and only that one, obey ``verdict``."""
        # One hook for the run: to add or remove one in a step disturbs the user's own beside it.
        if optimizer not in self._hooks:
            self._hooks[optimizer] = optimizer.register_step_post_hook(self._obeyed)
        optimizer.found_inf = self._verdicts[optimizer] = verdict.float()  # type: ignore[attr-defined]

    def _obeyed(self, optimizer: Optimizer, *_arguments: object) -> None:
        verdict = self._verdicts.pop(optimizer, None)
        # A loss scaler of the user's own may have put its verdict in this place.
        if verdict is not None and getattr(optimizer, "found_inf", None) is verdict:
            del optimizer.found_inf  # type: ignore[attr-defined]

    def release(self) -> None:
        """Leave nothing on the optimizers: the run is over."""
        for optimizer, hook in self._hooks.items():
            hook.remove()
            self._obeyed(optimizer)
        self._hooks.clear()


def _in_float64(norms: GradientNorms) -> GradientNorms:
    """Return the norms of finite gradients whose powers overflow in sum."""
    per_parameter = tensor_norms(norms.gradients(), norms.norm_type, torch.float64)
    return replace(norms, per_parameter=per_parameter, total=total_norm(per_parameter, norms.norm_type))


def _takes_verdict(optimizer: Optimizer) -> bool:
    """Say whether ``optimizer`` leaves everything as it is, on the device, if its ``found_inf`` is 1.

    The fused kernels of torch do: it is how they work with a loss scaler. Other optimizers that unscale by
    themselves have protocols of their own.
    """
    return unscales_itself(optimizer) and isinstance(optimizer, (Adam, AdamW, SGD, Adagrad))
