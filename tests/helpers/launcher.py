"""Runs a function in several processes that can talk to each other, as ranks of one job."""

import multiprocessing
import os
import tempfile
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def launch(work: Callable[..., Any], *args: Any, world_size: int = 2) -> list[Any]:
    """Return what ``work(*args)`` returned on each rank.

    ``work`` must be importable (a module of ``helpers``). The process group is gloo over a file, so no
    port is needed; the environment is torchrun's, so a Lightning Trainer with ``devices=world_size`` joins
    it.
    """
    # Ranks are forked from a server that has imported what they need, once for all calls: importing takes a process
    # longer than most of them run.
    multiprocessing.set_forkserver_preload(["lightning_gradtools.callbacks", "lightning_gradtools.tasks"])
    with tempfile.TemporaryDirectory() as folder:
        mp.start_processes(_rank, (work, args, world_size, folder), nprocs=world_size, start_method="forkserver")
        return [torch.load(f"{folder}/{rank}", weights_only=False) for rank in range(world_size)]


def _rank(rank: int, work: Callable[..., Any], args: tuple[Any, ...], world_size: int, folder: str) -> None:
    torch.set_num_threads(1)
    os.chdir(folder)
    ranks = {"RANK": rank, "LOCAL_RANK": rank, "GROUP_RANK": 0}
    sizes = {"WORLD_SIZE": world_size, "LOCAL_WORLD_SIZE": world_size}
    names = {"TORCHELASTIC_RUN_ID": "tests", "MASTER_ADDR": "localhost", "MASTER_PORT": "0"}
    os.environ.update({key: str(value) for key, value in {**ranks, **sizes, **names}.items()})
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/store",
        rank=rank,
        world_size=world_size,
        timeout=timedelta(seconds=90),  # a rank that waits for another fails soon, by name
    )
    try:
        torch.save(work(*args), f"{folder}/{rank}")
    finally:
        dist.destroy_process_group()
