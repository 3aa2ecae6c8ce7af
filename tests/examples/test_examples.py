"""Each example runs, and prints what it promises."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
PROMISED = {
    "add_to_trainer": "gradient norm of",
    "hessian_spectrum": "top eigenvalues",
    "pathology_detector": "ReLU: 0 findings",
}


@pytest.mark.parametrize("name", sorted(path.stem for path in EXAMPLES.glob("*.py")))
def test_example(tmp_path, name):
    run = subprocess.run(
        [sys.executable, "-W", "error::UserWarning:lightning_gradtools", str(EXAMPLES / f"{name}.py")],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    assert PROMISED[name] in run.stdout
