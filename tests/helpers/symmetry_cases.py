"""Weights split over four ranks in every way, for tests/gradients/test_symmetry.py."""

from typing import Any

import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate, Shard, distribute_tensor

from lightning_gradtools.gradients.symmetry import local_extremes, units_are_one

WAYS = {
    "rows": ((4,), (Shard(0),)),
    "columns": ((4,), (Shard(1),)),
    "copies": ((4,), (Replicate(),)),
    "rows and columns": ((2, 2), (Shard(0), Shard(1))),
    "columns and rows": ((2, 2), (Shard(1), Shard(0))),
    "rows, copied": ((2, 2), (Replicate(), Shard(0))),
    "columns, copied": ((2, 2), (Shard(1), Replicate())),
}


def split_in_every_way() -> dict[str, Any]:
    """Compare with the whole tensor's answer on this rank of four; of three rows one rank has none."""
    torch.manual_seed(0)
    row = torch.randn(1, 6)
    same = row.expand(3, 6).clone()
    last_row, last_column = same.clone(), same.clone()
    last_row[2] += 0.1
    last_column[:, 5] = torch.tensor([0.0, 0.1, 0.0])
    weights = {"same": same, "last row": last_row, "last column": last_column, "random": torch.randn(3, 6)}
    expected = [name == "same" for name in weights]
    compared, wrong = 0, []
    for way, (shape, placements) in WAYS.items():
        mesh = init_device_mesh("cpu", shape)
        split = [distribute_tensor(weight, mesh, placements) for weight in weights.values()]
        found = [bool(flag) for flag in units_are_one([local_extremes(each) for each in split])]
        wrong += [f"{way}, {name}" for name, a, b in zip(weights, found, expected, strict=True) if a != b]
        compared += len(found)
    return {"wrong": wrong, "compared": compared}
