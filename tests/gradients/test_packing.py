import pytest
import torch

from lightning_gradtools.gradients.packing import Packing


def test_slots_come_back_as_they_were_put():
    packing = Packing()
    packing.put("matrix", torch.arange(6.0).reshape(2, 3))
    packing.put("none", [])
    packing.put("scalars", [torch.tensor(7.0), torch.tensor(8, dtype=torch.float64)])
    assert packing.sizes == {"matrix": 6, "none": 0, "scalars": 2}
    assert packing.to_host() == {"matrix": [0, 1, 2, 3, 4, 5], "none": [], "scalars": [7, 8]}


def test_what_is_done_to_the_vector_is_done_to_every_slot():
    packing = Packing()
    packing.put("a", torch.tensor(1.0))
    packing.put("b", torch.tensor([2.0, 3.0]))
    halves = packing.unpack(packing.flat() / 2)
    assert {name: values.tolist() for name, values in halves.items()} == {"a": [0.5], "b": [1.0, 1.5]}


def test_float64_is_kept_unless_another_type_is_asked_for():
    tiny = torch.tensor(1e-300, dtype=torch.float64)
    exact, single = Packing(), Packing(dtype=torch.float32)
    for packing in (exact, single):
        packing.put("a", torch.tensor(1.0))
        packing.put("tiny", tiny)
    assert exact.to_host()["tiny"] == [1e-300]
    assert single.to_host()["tiny"] == [0.0]


def test_a_name_is_given_once():
    packing = Packing()
    packing.put("a", torch.tensor(1.0))
    with pytest.raises(ValueError, match="name='a'"):
        packing.put("a", torch.tensor(1.0))


def test_nothing_is_an_empty_vector():
    assert Packing().to_host() == {}
