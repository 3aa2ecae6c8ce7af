"""The contracts on imports hold, and notice when they are broken."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    ("module", "line", "contract"),
    [
        ("gradients/norms.py", "import lightning", "the mathematics knows neither lightning nor hydra"),
        ("schedules/warmup_cosine.py", "import hydra", "the mathematics knows neither lightning nor hydra"),
        ("callbacks/gradient_monitor/callback.py", "import omegaconf", "only the application knows hydra"),
        (
            "callbacks/gradient_monitor/callback.py",
            "import lightning_gradtools.callbacks.gradient_clipping",
            "callbacks do not import each other",
        ),
        ("distributed.py", "import lightning_gradtools.gradients.norms", "layers: "),
        ("tasks/task.py", "import lightning_gradtools.cli.train", "layers: "),
    ],
)
def test_a_planted_violation_breaks_its_contract(tmp_path, module, line, contract):
    shutil.copytree(ROOT / "lightning_gradtools", tmp_path / "lightning_gradtools")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    planted = tmp_path / "lightning_gradtools" / module
    planted.write_text(f"{planted.read_text()}\n{line}\n")
    lint = Path(sys.executable).with_name("lint-imports")
    run = subprocess.run([lint, "--no-cache"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert run.returncode == 1
    report = " ".join(run.stdout.split())
    broken = [piece for piece in report.split("KEPT") if "BROKEN" in piece]
    assert any(contract in piece.split("BROKEN")[0] for piece in broken), run.stdout
