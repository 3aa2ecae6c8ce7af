"""What begins with an underscore in Lightning or torch may go with their next release.

It is asked for in one place, ``lightning_gradtools/_lightning/``, where a release that breaks it is mended, and
elsewhere only as listed here.
"""

import ast
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import pytest

import lightning_gradtools

PACKAGE = Path(lightning_gradtools.__file__).parent
FLOOR = "_lightning"

# Keys of Hydra's configurations, which are documented, and fields of named tuples.
DOCUMENTED = {"_target_", "_partial_", "_fields", "_replace", "_asdict"}


class Use(NamedTuple):
    """A private name that a file asks for."""

    file: str
    attribute: str


class Allowed(NamedTuple):
    """Why a file may ask for one."""

    file: str
    attribute: str
    reason: str
    if_it_goes: str


BASE_CLASS = "the base class of all of its kind, also of those that are not torch's own; no public one is"
LIST_THEM = "list the public classes; what others derive from this one is then not known"
ALLOWED = [
    Allowed("activations/step_tap.py", "_ConvNd", BASE_CLASS, LIST_THEM),
    Allowed("activations/step_tap.py", "_BatchNorm", BASE_CLASS, LIST_THEM),
    Allowed("activations/step_tap.py", "_InstanceNorm", BASE_CLASS, LIST_THEM),
    Allowed(
        "activations/ordinary.py",
        "_C",
        "no public way to tell a tensor inside vmap or grad, which stands for many",
        "such tensors would be looked at, and the detector disable itself at the first",
    ),
    Allowed("callbacks/gradient_check.py", "_BatchNorm", BASE_CLASS, LIST_THEM),
    Allowed(
        "callbacks/pathology_detector/step_sample.py",
        "_foreach_sub",
        "one kernel for all parameters; torch's optimizers are built on it",
        "subtract one by one, as for a DTensor",
    ),
    Allowed(
        "curvature/hessian.py",
        "_decomp",
        "derivatives of operations whose own have no second one",
        "products of such networks become finite differences",
    ),
    Allowed(
        "distributed.py",
        "_python_dispatch",
        "the class of modes that see every operation, as torch documents it; it has no other name",
        "a collective in what one rank runs alone would wait for ranks that do not come",
    ),
    Allowed(
        "distributed.py",
        "_functional_collectives",
        "the result of a collective under way, which tensor parallelism hands on as a tensor of its own class",
        "the detector would not see activations of such tensors",
    ),
    Allowed(
        "gradient_check/directional.py",
        "_input_metadata",
        "the dtype of everything that a graph computed, which autograd keeps nowhere else",
        "a gradient rounded to less than float64 on the way would be called wrong",
    ),
    Allowed("gradient_check/network.py", "_BatchNorm", BASE_CLASS, LIST_THEM),
    Allowed(
        "gradients/clipping.py",
        "_foreach_mul_",
        "one kernel for all gradients; torch's own clip_grad_norm_ is built on it",
        "multiply one by one, as torch does where it has no such kernel",
    ),
    Allowed(
        "gradients/clipping.py",
        "_values",
        "the memory of a sparse gradient that is not coalesced, which values() refuses",
        "coalesce first, and write the result back",
    ),
    Allowed(
        "gradients/norms.py",
        "_foreach_norm",
        "one kernel for all gradients; torch's own get_total_norm is built on it",
        "take the norms one by one, as torch does where it has no such kernel",
    ),
    Allowed("initialization/signal_path.py", "_BatchNorm", BASE_CLASS, LIST_THEM),
    Allowed("initialization/signal_path.py", "_InstanceNorm", BASE_CLASS, LIST_THEM),
    Allowed("initialization/weights.py", "_ConvNd", BASE_CLASS, LIST_THEM),
    Allowed(
        "pytree.py",
        "_pytree",
        "what users registered with torch's pytrees must be known; torch has no public name for them yet",
        "import the public one",
    ),
    Allowed(
        "reporting/loggers.py",
        "_get_file_writer",
        "all scalars of a step as one event, which add_scalar cannot write",
        "write them one by one, as for tensorboardX",
    ),
    Allowed("tasks/weight_decay.py", "_BatchNorm", BASE_CLASS, LIST_THEM),
]


def is_private(name):
    return name.startswith("_") and not name.startswith("__") and name not in DOCUMENTED


def first_private(node, own):
    """The first private name of others in a path: of ``torch._C._functorch``, which belongs to ``_C``, only that."""
    if not isinstance(node, ast.Attribute):
        return None
    mine = isinstance(node.value, ast.Name) and node.value.id in own
    return first_private(node.value, own) or (node.attr if is_private(node.attr) and not mine else None)


def own_names(tree):
    """The names in a file that stand for what this package defines: there or in another file."""
    own = {"self", "cls"}
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            own.add(node.name)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "lightning_gradtools":
            own |= {each.asname or each.name for each in node.names}
    return own


def private_uses(source):
    """The private names of others in a file: attributes, imports, and what ``getattr`` and its kin are given."""
    tree = ast.parse(source)
    own, found = own_names(tree), []
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            found += [node.attr] if first_private(node, own) and not first_private(node.value, own) else []
        elif isinstance(node, ast.Import):
            found += [part for each in node.names for part in each.name.split(".")]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] != "lightning_gradtools":
            found += [*(node.module or "").split("."), *(each.name for each in node.names)]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and len(node.args) > 1:
            asks = node.func.id in ("getattr", "hasattr", "setattr", "delattr")
            given, name = node.args[:2]
            mine = isinstance(given, ast.Name) and given.id in own
            found += [str(name.value)] if asks and not mine and isinstance(name, ast.Constant) else []
    return [name for name in found if is_private(name)]


def uses_of(package):
    """How often each file outside the floor asks for each private name."""
    files = sorted(path for path in package.rglob("*.py") if path.relative_to(package).parts[0] != FLOOR)
    return Counter(
        Use(path.relative_to(package).as_posix(), name) for path in files for name in private_uses(path.read_text())
    )


def test_private_names_are_asked_for_in_one_place_and_as_listed():
    found, allowed = set(uses_of(PACKAGE)), {Use(each.file, each.attribute) for each in ALLOWED}
    new, gone = sorted(found - allowed), sorted(allowed - found)
    assert new == [], "find a public equivalent, or move these into lightning_gradtools/_lightning/"
    assert gone == [], "these are needed no more: take them off the list"


def test_each_entry_says_why_and_what_then():
    assert len({(each.file, each.attribute) for each in ALLOWED}) == len(ALLOWED)
    assert [each for each in ALLOWED if len(each.reason) < 20 or len(each.if_it_goes) < 10] == []


@pytest.mark.parametrize(
    ("line", "names"),
    [
        ("trainer.fit_loop._should_accumulate()", ["_should_accumulate"]),
        ("nn.modules.conv._ConvNd", ["_ConvNd"]),
        ("torch._C._functorch.is_wrapped", ["_C"]),
        ("super()._step()", ["_step"]),
        ("from torch.utils._pytree import tree_map", ["_pytree"]),
        ("from lightning.pytorch.strategies.launchers import _Launcher", ["_Launcher"]),
        ("import torch._dynamo", ["_dynamo"]),
        ("getattr(optimizer, '_scale', None)", ["_scale"]),
        ("self._mine._theirs", ["_theirs"]),
        ("self._mine, cls._mine, module.__dict__, cfg._target_, self.trainer.logger", []),
        ("self.trainer._loggers", ["_loggers"]),
        ("from lightning_gradtools._lightning.loop import logging_step", []),
        ("class Splits(NamedTuple): ...\nSplits._count", []),
        ("from lightning_gradtools.tasks import Task\nTask._count, getattr(Task, '_count')", []),
    ],
)
def test_what_counts_as_private(line, names):
    assert private_uses(line) == names


def test_no_test_reaches_into_a_private_attribute_of_ours():
    own = {
        node.attr
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute)
        and isinstance(node.ctx, ast.Store)
        and isinstance(node.value, ast.Name)
        and node.value.id == "self"
        and node.attr.startswith("_")
    }
    assert len(own) > 50
    reached = [
        f"{path.name}:{node.lineno} {ast.unparse(node)}"
        for path in Path(__file__).parent.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute)
        and node.attr in own
        and not (isinstance(node.value, ast.Name) and node.value.id in ("self", "cls"))
    ]
    assert not reached, "\n".join(reached)
