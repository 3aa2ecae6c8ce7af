import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import histories
from helpers.histories import decaying, falling, found, history, layers, noise

from lightning_gradtools import diagnosis
from lightning_gradtools.diagnosis.rules import RULES


def test_a_healthy_history_yields_nothing():
    assert not found(history(loss=falling))


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_no_verdict_depends_on_the_scale_of_the_loss(scale):
    for loss in (falling, lambda step: 2.3 + (-1) ** step, lambda step: 2.3 + 0.02 * noise(step)):
        for gain in (0.3, 1.0):
            plain = history(loss=loss, seen=decaying(gain))
            scaled = history(
                loss=lambda s, loss=loss: scale * loss(s),
                seen=lambda s, gain=gain: layers([scale * gain ** (8 - i) for i in range(8)], gradient=scale),
            )
            assert {key: f.severity for key, f in found(scaled).items()} == {
                key: f.severity for key, f in found(plain).items()
            }


NEW_RULE = """
from lightning_gradtools.diagnosis.finding import Finding, Kind, Severity
from lightning_gradtools.diagnosis.rule import Need, Rule


def find(context):
    step = context.latest.step
    yield Finding(kind=Kind.DEAD_RELU, layer="new", step=step, severity=Severity.INFO, evidence=(), message="")


RULE = Rule(
    kind=Kind.DEAD_RELU, order=35, needs=frozenset({Need.OBSERVATIONS}), find=find, remedies=lambda context: ()
)
"""


def test_adding_a_rule_is_adding_one_file(tmp_path):
    package = tmp_path / "lightning_gradtools"
    shutil.copytree(
        Path(diagnosis.__file__).parent, package / "diagnosis", ignore=shutil.ignore_patterns("__pycache__")
    )
    (package / "__init__.py").touch()
    (package / "diagnosis" / "rules" / "new_rule.py").write_text(NEW_RULE)
    program = (
        "from histories import history\n"
        "from lightning_gradtools.diagnosis import rules\n"
        "print(*[rule.order for rule in rules.RULES])\n"
        "print(*[finding.layer for finding in rules.diagnose(history())])\n"
    )
    path = os.pathsep.join([str(tmp_path), str(Path(histories.__file__).parent)])
    ran = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": path},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    orders, layers_found = (line.split() for line in ran.stdout.splitlines())
    assert list(map(int, orders)) == sorted([*(rule.order for rule in RULES), 35])
    assert "new" in layers_found
