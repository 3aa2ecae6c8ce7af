"""The script that runs our callbacks in other people's projects: its verdicts, and a few of its rows for real."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"
FINDING = {"kind": "dead_relu", "layer": "a", "severity": "warning", "step": 1, "resolved_at": None}
FINDING |= {"message": "units are dead", "remedy": "lower the rate"}


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("run_projects", SCRIPTS / "run_projects.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def runs(**changed):
    """The runs of a clean row, apart from what a variant's name is given."""
    clean = {"version": "1", "flavour": "lightning", "seconds": 1.0, "losses": [2.0, 1.0], "weights": "w", "error": ""}
    clean |= {"sickness": "rate", "disabled": {}, "keys": [], "findings": [], "spectra": 1}
    variants = ("bare", "observers", "clipping", "sick")
    return {name: {"variant": name, **clean, **changed.get(name, {})} for name in variants}


def test_nothing_is_unexplained_where_nothing_changed(script):
    assert script.unexplained(runs()) == []


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"observers": {"weights": "v"}}, "weights with observers"),
        ({"clipping": {"weights": "v"}}, "weights with clipping"),
        ({"sick": {"disabled": {"GradientMonitor": "it broke"}}}, "disabled: it broke"),
        ({"observers": {"keys": ["unknown 'x'"]}}, "keys: unknown 'x'"),
        ({"observers": {"spectra": 0}}, "no spectrum"),
        ({"observers": {"findings": [FINDING]}}, "false: units are dead"),
        ({"bare": {"losses": [1.0, 2.0]}}, "the loss did not fall"),
        ({"bare": {"losses": [1.0, float("nan")]}}, "the loss did not fall"),
        ({"clipping": {"error": "exit code 1"}}, "clipping: exit code 1"),
    ],
)
def test_each_thing_that_changed_is_told(script, changed, told):
    assert script.unexplained(runs(**changed)) == [told]


def test_what_a_sick_run_says_is_left_to_a_person(script):
    sick = runs(sick={"findings": [FINDING], "error": "diverged", "weights": "v"})
    assert script.unexplained(sick) == []
    assert "step 1, warning dead_relu, a: units are dead => lower the rate" in "\n".join(script.row("model", sick))


def test_an_info_is_no_false_finding(script):
    assert script.unexplained(runs(observers={"findings": [{**FINDING, "severity": "info"}]})) == []


def test_a_project_that_is_not_there_is_a_row_with_the_reason(tmp_path):
    if importlib.util.find_spec("nflows") is not None:
        pytest.skip("nflows is installed")
    result = tmp_path / "result.json"
    command = [sys.executable, str(SCRIPTS / "run_projects.py"), "--only", "nflows", "--json", str(result)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "nflows: ModuleNotFoundError: No module named 'nflows'" in done.stdout
    assert json.loads(result.read_text())["models"]["nflows"]["reason"]["reason"].startswith("ModuleNotFoundError")


@pytest.mark.projects
@pytest.mark.parametrize("file", ["timm", "torch_geometric", "transformers"])
def test_our_callbacks_change_nothing_in_it(file, tmp_path):
    pytest.importorskip(file, reason=f"{file} is not installed")
    result = tmp_path / "result.json"
    command = [sys.executable, str(SCRIPTS / "run_projects.py"), "--only", file, "--json", str(result)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = json.loads(result.read_text())
    assert done.returncode == 0, done.stdout
    assert found["unexplained"] == []
    assert all(model.keys() == {"bare", "observers", "clipping", "sick"} for model in found["models"].values())
