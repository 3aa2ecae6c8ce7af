"""``gradtools-train resume=FOLDER``: go on with a run, in its folder and with its own config."""

import json
from pathlib import Path

from lightning_gradtools.arguments import ArgumentError

# The checkpoint that a run is gone on with, in its folder.
LAST = Path("checkpoints", "last.ckpt")
# What a part of a run writes as soon as it begins to train.
VERSIONS = "versions.json"
_SWEEP = ("-m", "--multirun")
_CONFIG = ("-cp", "--config-path", "-cn", "--config-name", "-cd", "--config-dir")


def replace_resume(arguments: list[str]) -> list[str]:
    """Say to Hydra what ``resume=FOLDER`` means.

    The config is not composed anew from the words that once composed it: it is the one that Hydra wrote into the
    folder, whatever has become of the files it was composed from since, and wherever these are. What follows on the
    command line changes its values; groups are no more to choose from. Hydra's record of each part of a run has a
    folder of its own (``.hydra``, ``.hydra/resumed_1``, …), and the newest is what the next part begins with.

    Args:
        arguments: the command line after the program's name.

    Returns:
        The same arguments if ``resume=`` is not among them; else those that go on with the run.

    Raises:
        ArgumentError: if there is nothing to go on with, or ``resume=`` does not go with another argument.
    """
    folders = [argument.partition("=")[2] for argument in arguments if argument.startswith("resume=")]
    if not folders:
        return arguments
    rest = [argument for argument in arguments if not argument.startswith("resume=")]
    given = folders[0]
    folder = Path(given).expanduser().resolve()
    _refuse(given, folder, len(folders), rest)
    # Not by the folders that there are: a part that was refused, as for a mistake in its overrides, left one too.
    number = 1 + len(json.loads((folder / VERSIONS).read_text()).get("earlier", []))
    newest = folder / ".hydra" / (f"resumed_{number - 1}" if number > 1 else "")
    return [
        f"--config-path={newest}",
        "--config-name=config",
        "hydra/job_logging=none",  # as in our own `train.yaml`
        f"hydra.run.dir={quoted(folder)}",
        f"hydra.output_subdir=.hydra/resumed_{number}",
        f"ckpt_path={quoted(folder / LAST)}",
        *rest,
    ]


def quoted(value: object) -> str:
    """Return ``value`` as a string in Hydra's grammar, whatever characters it holds."""
    text = str(value)
    if text.endswith("\\"):  # the only thing that cannot stand before the closing quote
        raise ArgumentError(f"{text!r}: must not end in a backslash")
    return "'" + text.replace("\\'", "\\\\'").replace("'", "\\'") + "'"


def _refuse(given: str, folder: Path, count: int, rest: list[str]) -> None:
    def refuse(reason: str) -> None:
        raise ArgumentError(f"resume={given}: {reason}")

    keys = {argument.lstrip("+~").split("=")[0] for argument in rest}
    if count > 1:
        refuse("must be given once")
    if keys & {*_SWEEP}:
        refuse("cannot be swept over; go on with one run at a time")
    if "ckpt_path" in keys:
        refuse(f"cannot be given with ckpt_path; it goes on from {LAST}")
    if others := keys & {*_CONFIG}:
        refuse(f"cannot be given with {min(others)}; a run goes on with its own config")
    if not folder.is_dir():
        refuse("there is no such folder")
    for name in ("config.yaml", VERSIONS, ".hydra/config.yaml"):
        if not (folder / name).is_file():
            refuse(f"is not the folder of a run: it holds no {name}")
    if not (folder / LAST).exists():
        refuse(f"the run was not far enough to go on with: there is no {LAST}")
