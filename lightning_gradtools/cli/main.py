"""The console script: what happens before Hydra composes a config and after a run has failed."""

import os
import sys

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from lightning_gradtools.cli.errors import explain
from lightning_gradtools.cli.overrides import replace_groups_by_targets
from lightning_gradtools.cli.resume import replace_resume

# Hydra prints its own errors and exits, unless asked for the exception itself. We ask, so that a suggestion can be
# added; the user's own wish for a traceback is kept under a name of ours, which child processes inherit.
_TRACEBACK = "GRADTOOLS_FULL_ERROR"


@hydra.main(config_path="pkg://lightning_gradtools.conf", config_name="train", version_base="1.3")
def _application(cfg: DictConfig) -> float | None:
    from lightning_gradtools.cli.train import train  # torch takes seconds to import; --help should not

    try:
        return train(cfg)
    except Exception as error:
        # In a sweep Hydra goes on with the other runs and says which one failed; a single run has nothing to add.
        if HydraConfig.get().mode == RunMode.RUN:
            _exit_with_explanation(error)
        raise


def main() -> None:
    """Run ``gradtools-train`` with ``sys.argv``; errors of the user's making are printed without a traceback."""
    os.environ.setdefault(_TRACEBACK, os.environ.get("HYDRA_FULL_ERROR", "0"))
    os.environ["HYDRA_FULL_ERROR"] = "1"
    sys.path.insert(0, os.getcwd())  # as `python -m` does, so that `model._target_=my_package.Net` is found from here
    try:
        sys.argv[1:] = replace_groups_by_targets(replace_resume(sys.argv[1:]))
        _application()
    except KeyboardInterrupt:  # before or after training; within it Lightning stops gracefully by itself
        sys.exit(130)  # 128 + SIGINT, as a shell has it
    except Exception as error:
        _exit_with_explanation(error)
        raise


def _exit_with_explanation(error: Exception) -> None:
    """Print what ``error`` means and exit with status 1; return if it is a bug, or the user wants the traceback."""
    message = None if os.environ[_TRACEBACK] == "1" else explain(error, sys.argv[1:])
    if message is not None:
        print(message, file=sys.stderr)
        sys.exit(1)
