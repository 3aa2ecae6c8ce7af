import pytest

from lightning_gradtools.cli.overrides import replace_groups_by_targets


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("model._target_=a.B", "model=custom model._target_=a.B"),
        ("-m model._target_=a.B,a.C seed=1", "-m model=custom model._target_=a.B,a.C seed=1"),
        ("data._target_=a.D --cfg job", "data=custom data._target_=a.D --cfg job"),
        ("model=mlp model._target_=a.B", "model=mlp model._target_=a.B"),
        ("model.net._target_=a.Net", "model.net._target_=a.Net"),
        ("optimizer._target_=a.Opt", "optimizer._target_=a.Opt"),
        ("model=custom model._target_=a.B", "model=custom model._target_=a.B"),  # a child process sees it rewritten
        ("", ""),
    ],
)
def test_a_named_class_replaces_its_group(given, expected):
    assert replace_groups_by_targets(given.split()) == expected.split()
