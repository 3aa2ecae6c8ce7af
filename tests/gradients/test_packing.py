import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from lightning_gradtools.gradients.packing import Packing


def test_every_slot_comes_back_under_its_name_in_the_order_put():
    packing = Packing()
    packing.put("b", torch.tensor([1.0, -2.0, 3.0]))
    packing.put(("a", 0), torch.tensor(4.0))
    packing.put("none", torch.zeros(0))
    packing.put("c", torch.tensor([math.inf]))
    assert list(packing.to_host().items()) == [
        ("b", [1.0, -2.0, 3.0]),
        (("a", 0), [4.0]),
        ("none", []),
        ("c", [math.inf]),
    ]


def test_numbers_of_either_precision_are_exact():
    single, double = torch.tensor([0.1, 2.0**-140]), torch.tensor(0.1, dtype=torch.float64)
    packing = Packing()
    packing.put("single", single)
    packing.put("double", double)
    assert packing.to_host() == {"single": single.tolist(), "double": [0.1]}


def test_only_what_concerns_all_ranks_is_reduced_and_all_of_it_at_once():
    packing, reduced = Packing(), []

    def add_a_rank_of_tens(vector):
        reduced.append(vector.tolist())
        return vector + 10

    packing.put("mine", torch.tensor([1.0]))
    packing.put("ours", torch.tensor(2.0), over_ranks=True)
    packing.put("mine too", torch.tensor([3.0, 4.0]))
    packing.put("ours too", torch.tensor([5.0, 6.0]), over_ranks=True)
    found = packing.to_host(add_a_rank_of_tens)
    assert found == {"mine": [1.0], "ours": [12.0], "mine too": [3.0, 4.0], "ours too": [15.0, 16.0]}
    assert list(found) == ["mine", "ours", "mine too", "ours too"]
    assert reduced == [[2.0, 5.0, 6.0]]


def test_nothing_is_reduced_where_nothing_concerns_all_ranks():
    packing = Packing()
    packing.put("mine", torch.tensor(1.0))
    assert packing.to_host(lambda vector: pytest.fail("a collective that other ranks do not expect")) == {"mine": [1.0]}
    assert Packing().to_host() == {}


def test_tensors_of_several_devices_are_packed_on_the_one_asked_for():
    seen = []

    class Devices(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            if function is torch.ops.aten.cat.default:
                seen.append([part.device.type for part in args[0]])
            return function(*args, **(kwargs or {}))

    packing = Packing(torch.device("meta"))
    packing.put("here", torch.ones(2), over_ranks=True)
    packing.put("there", torch.ones(1, device="meta"), over_ranks=True)
    with Devices():
        found = packing.to_host(lambda vector: torch.arange(3.0))
    assert seen[0] == ["meta", "meta"]
    assert found == {"here": [0.0, 1.0], "there": [2.0]}


@pytest.mark.parametrize("wrong", [torch.ones(2, 2), torch.ones(2, dtype=torch.int64)], ids=["matrix", "integers"])
def test_what_does_not_fit_is_refused(wrong):
    with pytest.raises(ValueError, match="'norms'"):
        Packing().put("norms", wrong)


def test_a_slot_is_filled_once():
    packing = Packing()
    packing.put("norms", torch.ones(2))
    with pytest.raises(ValueError, match="'norms' is taken"):
        packing.put("norms", torch.ones(2))


def test_slots_can_be_used_on_the_device_before_they_go_to_the_host():
    packing = Packing()
    packing.put("own", torch.tensor([1.0, 2.0]))
    packing.put("shared", torch.tensor([3.0, 4.0]), over_ranks=True)
    assert packing.sizes == {"own": 2, "shared": 2}
    found = packing.on_device(lambda vector: 10 * vector)
    assert {name: vector.tolist() for name, vector in found.items()} == {"own": [1, 2], "shared": [30, 40]}
