"""What users import: which names there are, what each is called with, and what importing them costs."""

import ast
import inspect
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hydra.utils import get_method, instantiate
from lightning.pytorch import Callback

import lightning_gradtools
from lightning_gradtools import callbacks

ROOT = Path(__file__).parents[1]

# How each public name is called. Errors are raised by us alone, and are called by nobody.
SIGNATURES = {
    "GradientCheck": "(tolerance=0.0001, directions=2, exclude=(), on_failure='raise')",
    "GradientCheckError": None,
    "GradientClipping": (
        "(max_norm=None, *, clip_value=None, adaptive=None, percentile=None, zscore=None, norm_type=2, exclude=(),"
        " overrides=None, min_weight_norm=0.001, window=128, warmup_steps=25, on_nonfinite='skip',"
        " max_consecutive_skips=10, log_every_n_steps=None)"
    ),
    "GradientMonitor": (
        "(log_every_n_steps=None, *, norm_type=2, group_by='parameter', include=(), exclude=(), top_k=None,"
        " progress_bar=False, weight_norm=False, update_ratio=False, cosine=False, noise_scale=False, histograms=False,"
        " history_size=1000, logs_per_flush=1, prefix='', measurements=())"
    ),
    "HessianSpectrum": (
        "(every_n_steps=None, every_n_epochs=None, max_overhead=None, *, top_k=5, rtol=0.001, which='magnitude',"
        " trace=False, density=False, stability=True, per_layer=False, num_batches=1, source='train', method='auto',"
        " memory=None, budget_seconds=None, math_attention=True, seed=0)"
    ),
    "LastCheckpoint": "(dirpath=None, every_minutes=5.0)",
    "PathologyDetector": (
        "(every_n_steps=20, *, patience=300, on_info='log', on_warning='warn', on_critical='warn', dirpath=None,"
        " dump_dir=None, check_every_step=None, table=True)"
    ),
    "PathologyError": None,
    "ProgressBar": "(refresh_rate=1, max_lines=20)",
    "TorchLRScheduler": "(scheduler, interval=None, frequency=1, monitor=None, replace=False)",
    "WarmupCosineSchedule": (
        "(warmup_steps=0.05, total_steps=None, min_lr_ratio=0.0, warmup_start_factor=None, decay='cosine',"
        " decay_steps=None, num_cycles=1, replace=False)"
    ),
    "WeightInitialization": "(scheme='he', embedding_std=0.02, zero_residual=False, force=False, seed=None)",
    "lr_range_test": ("(trainer, module, datamodule=None, *, min_lr=1e-06, max_lr=1.0, num_steps=100, folder=None)"),
}


NAMES = set(lightning_gradtools.__all__) - {"__version__"}


def called_with(public):
    """The signature without annotations, which versions of Python print differently; None for an error."""
    if isinstance(public, type) and issubclass(public, Exception):
        return None
    signature = inspect.signature(public)
    bare = [each.replace(annotation=inspect.Parameter.empty) for each in signature.parameters.values()]
    return str(signature.replace(parameters=bare, return_annotation=inspect.Signature.empty))


def test_names_and_signatures_are_those_written_here():
    found = {name: called_with(getattr(lightning_gradtools, name)) for name in NAMES}
    gone = [name for name in SIGNATURES if name not in found]
    changed = {name: how for name, how in found.items() if how != SIGNATURES.get(name, "not listed")}
    assert (gone, changed) == ([], {}), (
        f"the public API changed (gone: {gone}; new or called otherwise: {changed}). If that is meant, write it into"
        " SIGNATURES here and say so under Unreleased in CHANGELOG.md"
    )


def test_the_changelog_mentions_every_public_name():
    _, _, unreleased = (
        (ROOT / "CHANGELOG.md").read_text().partition("\n## Unreleased\n")
    )  # and what follows, once released
    mentioned = set(re.findall(r"`(\w+)", unreleased))
    missing = sorted(set(lightning_gradtools.__all__) - mentioned)
    assert not missing, f"say what these are under Unreleased in CHANGELOG.md: {', '.join(missing)}"


def test_both_places_have_the_same_objects_under_the_same_names():
    assert set(callbacks.__all__) == NAMES
    assert all(getattr(callbacks, name) is getattr(lightning_gradtools, name) for name in NAMES)
    tree = ast.parse(Path(callbacks.__file__).read_text())
    imported = [each.name for node in tree.body if isinstance(node, ast.ImportFrom) for each in node.names]
    assert set(imported) - {"__all__"} == NAMES


def test_every_callback_and_error_in_the_folder_is_public():
    ours = {
        value.__name__
        for name, module in list(sys.modules.items())
        if name.startswith("lightning_gradtools.callbacks.")
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, (Callback, Exception)) and value.__module__ == name
    }
    assert ours == {name for name in NAMES if isinstance(getattr(callbacks, name), type)}


def in_a_new_process(code, *options, folder=ROOT):
    command = [sys.executable, *options, "-c", f"import sys; sys.path.insert(0, {str(folder)!r})\n{code}"]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return run.stdout.split()


@pytest.mark.parametrize(
    "code",
    [
        "import lightning_gradtools",
        "import lightning_gradtools; dir(lightning_gradtools)",
        "from lightning_gradtools import __all__, __version__, arguments",
    ],
)
def test_importing_the_package_loads_nothing_of_what_it_needs(code):
    heavy = "{'lightning', 'pytorch_lightning', 'torch', 'torchmetrics', 'hydra', 'omegaconf', 'tensorboard', 'numpy'}"
    assert in_a_new_process(f"before = set(sys.modules)\n{code}\nprint(*(set(sys.modules) - before) & {heavy})") == []


def test_the_names_are_listed_and_a_misspelt_one_is_refused():
    assert set(lightning_gradtools.__all__) <= set(dir(lightning_gradtools))
    with pytest.raises(AttributeError, match="module 'lightning_gradtools' has no attribute 'GradientMoniter'"):
        lightning_gradtools.GradientMoniter  # noqa: B018


def test_the_version_is_the_installed_one_and_said_to_be_unknown_without_one(tmp_path):
    assert re.fullmatch(r"\d+\.\d+\.\d+\S*", lightning_gradtools.__version__)
    (tmp_path / "lightning_gradtools").mkdir()
    shutil.copy(ROOT / "lightning_gradtools" / "__init__.py", tmp_path / "lightning_gradtools")
    code = "import lightning_gradtools; print(lightning_gradtools.__version__)"
    assert in_a_new_process(code, "-S", folder=tmp_path) == ["0+unknown"]  # -S: nothing installed is seen


@pytest.mark.parametrize("package", ["lightning_gradtools", "lightning_gradtools.callbacks"])
def test_hydra_finds_a_callback_by_its_short_name(package):
    made = instantiate({"_target_": f"{package}.GradientMonitor", "log_every_n_steps": 7})
    assert type(made) is callbacks.GradientMonitor
    assert made.log_every_n_steps == 7
    assert get_method(f"{package}.lr_range_test") is callbacks.lr_range_test
