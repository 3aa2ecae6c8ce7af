"""The wheel holds everything, and runs every experiment where the repository is not."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
EXPERIMENTS = sorted(path.stem for path in (ROOT / "conf" / "experiment").glob("*.yaml"))


def test_the_list_of_packages_is_the_tree():
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    code = {path.parent.relative_to(ROOT) for path in (ROOT / "lightning_gradtools").rglob("*.py")}
    conf = {Path("lightning_gradtools") / path.parent.relative_to(ROOT) for path in (ROOT / "conf").rglob("*.yaml")}
    assert sorted(listed) == sorted(str(folder).replace(os.sep, ".") for folder in code | conf)


def test_hydra_finds_a_package_in_each_folder_of_configs():
    assert [path.parent for path in (ROOT / "conf").rglob("*.yaml") if not (path.parent / "__init__.py").exists()] == []


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Build from a copy, so that no `build/` is left in the tree for the next build to pick up."""
    source = tmp_path_factory.mktemp("source") / "tree"
    tracked = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
        text=True,
    )
    for name in tracked.stdout.strip("\0").split("\0"):
        if (ROOT / name).exists():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, source / name)
    out = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(source)]  # sdist, wheel from it
    subprocess.run(build, check=True, capture_output=True)
    (found,) = out.glob("*.whl")
    return found


def test_the_wheel_holds_code_configs_and_the_typing_marker(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    code = {str(path.relative_to(ROOT)) for path in (ROOT / "lightning_gradtools").rglob("*.py")}
    conf = {f"lightning_gradtools/{path.relative_to(ROOT)}" for path in (ROOT / "conf").rglob("*.yaml")}
    assert code | conf | {"lightning_gradtools/py.typed"} <= names
    assert not [name for name in names if name.startswith(("tests", "conf", "examples", "scripts", "build"))]


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """A fresh environment with the wheel; dependencies are borrowed, as installing them again takes minutes.

    Returns its folder of programs, and the environment variables to run them with.
    """
    folder = tmp_path_factory.mktemp("installed") / "venv"
    venv.create(folder, with_pip=True)
    install = ["-m", "pip", "install", "-q", "--no-deps", "--disable-pip-version-check", wheel]
    subprocess.run([folder / "bin" / "python", *install], check=True)
    # On PYTHONPATH the `.pth` files of that folder are not read, so the repository's editable install is not seen.
    borrowed = sysconfig.get_path("purelib")
    return folder / "bin", {**os.environ, "PYTHONPATH": borrowed, "OMP_NUM_THREADS": "1"}


def test_the_public_names_come_from_the_installed_wheel(wheel, installed, tmp_path):
    programs, environment = installed
    code = """
import lightning_gradtools
from lightning_gradtools import GradientMonitor, lr_range_test
print(lightning_gradtools.__file__, lightning_gradtools.__version__, GradientMonitor(), lr_range_test.__module__)
"""
    command = [programs / "python", "-c", code]
    run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    origin, version, monitor, module = run.stdout.split()
    assert Path(origin).is_relative_to(programs.parent)
    assert version == wheel.name.split("-")[1]
    assert (monitor, module) == ("GradientMonitor()", "lightning_gradtools.callbacks.lr_range_test")


@pytest.mark.timeout(600)
def test_the_installed_wheel_runs_every_experiment(installed, tmp_path):
    """In an empty folder."""
    programs, environment = installed
    brief = [
        *("trainer.max_epochs=2", "trainer.limit_train_batches=4", "trainer.limit_val_batches=2"),
        *("trainer.limit_test_batches=2", "trainer.val_check_interval=null", "trainer.log_every_n_steps=1"),
    ]
    command = [programs / "gradtools-train", "-m", f"experiment={','.join(EXPERIMENTS)}", *brief]
    run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-3000:]
    summaries = list(tmp_path.glob("outputs/*/sweep_*/*/summary.json"))
    assert len(summaries) == len(EXPERIMENTS)
    for summary in summaries:
        assert json.loads(summary.read_text())["steps"] == 8
