"""The contracts on imports hold, notice when they are broken, and leave out no part of the tree."""

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "lightning_gradtools"
SOURCES = {path.relative_to(PACKAGE).as_posix(): path.read_text() for path in sorted(PACKAGE.rglob("*.py"))}
CONTRACTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]


def contract(name):
    (found,) = (each for each in CONTRACTS if each["name"].startswith(name))
    return found


def parts_of(folder):
    """The modules and packages that lie in a folder."""
    inside = [path for path in folder.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()]
    return {path.stem for path in inside if not path.stem.startswith("__")}


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
        ("tasks/task.py", "import lightning_gradtools.callbacks.progress_bar", "layers: "),
        ("reporting/loggers.py", "import lightning_gradtools.callbacks.progress_bar", "layers: "),
        ("_lightning/loop.py", "import lightning_gradtools.tasks.task", "layers: "),
        ("gradients/norms.py", "import lightning_gradtools._lightning.loop", "layers: "),
        ("diagnosis/finding.py", "import lightning_gradtools.reporting.findings", "layers: "),
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


def test_the_layers_are_those_of_the_design_and_hold_every_part_of_the_package():
    layers = [re.split(r" [|:] ", each) for each in contract("layers: ")["layers"]]
    cli, callbacks, services, mathematics, machinery, bottom = layers
    assert (cli, sorted(callbacks), sorted(services)) == (["cli"], ["callbacks", "tasks"], ["_lightning", "reporting"])
    assert (sorted(machinery), sorted(bottom)) == (["distributed", "pytree"], ["arguments", "interrupts"])
    assert sorted(part for layer in layers for part in layer) == sorted(parts_of(PACKAGE))
    known = set(contract("the mathematics knows")["source_modules"])
    known |= set(contract("the statistics of activations")["source_modules"])
    assert {f"lightning_gradtools.{each}" for each in [*mathematics, *machinery, *bottom]} <= known
    assert set(contract("only the application")["source_modules"]) == {
        f"lightning_gradtools.{each}" for each in [*callbacks, *services]
    }


def test_every_callback_is_one_of_those_that_do_not_import_each_other():
    listed = contract("callbacks do not import each other")["modules"]
    assert sorted(listed) == sorted(f"lightning_gradtools.callbacks.{each}" for each in parts_of(PACKAGE / "callbacks"))


def imported_by(source):
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (each.name.split(".")[0] for each in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield (node.module or "").split(".")[0]


SHARDS = re.compile(r"torch\.distributed|\bdist\.|\.(?:to_local|full_tensor|placements|device_mesh|redistribute)\b")


def test_one_module_knows_of_shards_and_collectives():
    """Whoever asks for a placement, or for the local part of a tensor, asks ``distributed.py``."""
    makes_meshes = {"_lightning/strategy.py", "tasks/task.py"}  # and so has to name them
    found = {name: set(SHARDS.findall(ast.unparse(ast.parse(source)))) for name, source in SOURCES.items()}
    knowing = {
        name
        for name, words in found.items()
        if words - ({"torch.distributed", ".device_mesh"} if name in makes_meshes else set())
    }
    assert knowing == {"distributed.py"}


def test_lightning_is_imported_on_its_floor_and_above_only():
    lightnings = {"lightning", "pytorch_lightning", "lightning_fabric", "lightning_utilities"}
    importers = {name.split("/")[0] for name, source in SOURCES.items() if lightnings & set(imported_by(source))}
    assert importers == {"_lightning", "callbacks", "cli", "reporting", "tasks"}


def writes_into_dict(source):
    """The lines of a file that change an object's ``__dict__``, or go round its class to set an attribute.

    ``setattr`` on a class of our own, given as ``cls``, is no such thing.
    """
    found = []
    for node in ast.walk(ast.parse(source)):
        changed = isinstance(node, ast.Subscript) and not isinstance(node.ctx, ast.Load) and is_dict(node.value)
        if isinstance(node, ast.Call):
            called, given = ast.unparse(node.func), [ast.unparse(each) for each in node.args]
            changed = called in ("object.__setattr__", "object.__delattr__") or (
                called in ("setattr", "delattr") and given[0] not in ("self", "cls")
            )
            if isinstance(node.func, ast.Attribute) and is_dict(node.func.value):
                changed = node.func.attr in ("update", "setdefault", "pop", "popitem", "clear")
        elif isinstance(node, ast.AugAssign):
            changed = is_dict(node.target)
        found += [ast.unparse(node)] if changed else []
    return found


def is_dict(node):
    """Whether a node is ``x.__dict__`` or ``vars(x)``, where x is not the object itself."""
    given = None
    if isinstance(node, ast.Attribute) and node.attr == "__dict__":
        given = node.value
    elif isinstance(node, ast.Call) and ast.unparse(node.func) == "vars" and node.args:
        given = node.args[0]
    return given is not None and ast.unparse(given) != "self"


def test_one_file_writes_functions_into_a_module_one_puts_its_attributes_back_and_one_copies_data_sets():
    writers = {name for name, source in SOURCES.items() if writes_into_dict(source)}
    assert writers == {"_lightning/batches.py", "_lightning/module.py", "_lightning/probe.py"}


@pytest.mark.parametrize(
    ("line", "count"),
    [
        ("module.__dict__[name] = clip", 1),
        ("vars(module)[name] = clip", 1),
        ("del vars(module)[name]", 1),
        ("module.__dict__.pop(name, None)", 1),
        ("vars(pl_module.net).update(tops)", 1),
        ("module.__dict__ |= tops", 1),
        ("object.__setattr__(module, name, clip)", 1),
        ("setattr(module, name, clip)", 1),
        ("delattr(trainer.strategy, name)", 1),
        ("before = vars(module)[name]; list(vars(module).items()); module.__dict__.get(name)", 0),
        ("self.__dict__.setdefault('guard', 1); setattr(cls, name, guarded); attributes[name] = 1", 0),
    ],
)
def test_what_counts_as_writing_into_a_module(line, count):
    assert len(writes_into_dict(line)) == count


LIGHTNINGS = ("lightning", "pytorch_lightning", "lightning_fabric")
# An iterator over loaders of any kind, which no Trainer is given.
MADE_OF_ONE_FLAVOUR: set[tuple[str, str]] = set()


def bound_to_one_flavour(source):
    """What a file does with a class of one of the two packages that the other's would not pass: compare, catch, make.

    Inheriting from one, and naming it in an annotation, bind nobody.
    """
    tree = ast.parse(source)
    theirs = {
        (each.asname or each.name).split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for each in node.names
        if (node.module or "" if isinstance(node, ast.ImportFrom) else each.name).split(".")[0] in LIGHTNINGS
    }

    def is_theirs(node):
        while isinstance(node, ast.Attribute):
            node = node.value
        return isinstance(node, ast.Name) and node.id in theirs

    def leaf(node):
        return ast.unparse(node).rpartition(".")[2]

    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            asks = leaf(node.func) in ("isinstance", "issubclass", "is_overridden")
            if asks and any(is_theirs(part) for each in [node.func, *node.args] for part in ast.walk(each)):
                yield ast.unparse(node)
            elif is_theirs(node.func) and leaf(node.func)[:1].isupper():
                yield leaf(node.func)
        elif isinstance(node, ast.Compare) and any(is_theirs(each) for each in [node.left, *node.comparators]):
            yield ast.unparse(node)
        elif isinstance(node, ast.ExceptHandler) and node.type and any(map(is_theirs, ast.walk(node.type))):
            yield f"except {ast.unparse(node.type)}"
        elif isinstance(node, ast.MatchClass) and is_theirs(node.cls):
            yield f"case {ast.unparse(node.cls)}"


def test_no_class_of_one_flavour_of_lightning_is_compared_with_or_made():
    found = {(name, each) for name, source in SOURCES.items() for each in bound_to_one_flavour(source)}
    new, gone = found - MADE_OF_ONE_FLAVOUR, MADE_OF_ONE_FLAVOUR - found
    assert not new, "ask is_a, is_overridden or counterpart of lightning_gradtools/_lightning/flavour.py instead"
    assert not gone, "take these off the list"


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("from lightning.pytorch import Trainer\nisinstance(x, Trainer)", ["isinstance(x, Trainer)"]),
        ("from lightning.pytorch import Trainer\nisinstance(x, (int, Trainer))", ["isinstance(x, (int, Trainer))"]),
        ("import lightning\nissubclass(x, lightning.Trainer)", ["issubclass(x, lightning.Trainer)"]),
        ("import pytorch_lightning as pl\ntype(x) is pl.Trainer", ["type(x) is pl.Trainer"]),
        (
            "import lightning.pytorch\nf.__code__ == lightning.pytorch.LightningModule.f.__code__",
            ["f.__code__ == lightning.pytorch.LightningModule.f.__code__"],
        ),
        (
            "from lightning.pytorch.utilities.model_helpers import is_overridden\nis_overridden('f', x)",
            ["is_overridden('f', x)"],
        ),
        ("from lightning.pytorch.utilities.types import LRSchedulerConfig as L\nL(x)", ["L"]),
        (
            "from lightning.fabric.utilities.exceptions import E\ntry: f()\nexcept (OSError, E): pass",
            ["except (OSError, E)"],
        ),
        ("from lightning.pytorch import Trainer\nmatch x:\n    case Trainer(): pass", ["case Trainer"]),
        ("from lightning.pytorch import Callback\nclass X(Callback): x: Callback", []),
        ("import lightning\nlightning.seed_everything(1)", []),
        ("from lightning_gradtools._lightning.flavour import is_a, is_overridden\nis_overridden('f', x)", []),
    ],
)
def test_what_binds_to_one_flavour(code, found):
    assert list(bound_to_one_flavour(code)) == found
