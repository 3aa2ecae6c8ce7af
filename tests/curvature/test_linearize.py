"""Losses that ``linearize`` is traced through, in a process of their own: it must not end the interpreter."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import lightning_gradtools

LOSSES = [
    "F.l1_loss(net(x), y)",
    "F.huber_loss(net(x), y, delta=0.3)",
    "F.smooth_l1_loss(net(x), y, beta=0.3)",
    "F.binary_cross_entropy(net(x).sigmoid(), y)",
    "F.binary_cross_entropy_with_logits(net(x), y)",
    "F.soft_margin_loss(net(x), 2 * y.round() - 1)",
    "F.kl_div(net(x).log_softmax(0), y.softmax(0), reduction='batchmean')",
    "F.mse_loss(net(x), net(-x))",
    "F.mse_loss(net(x), y)",
    "F.mse_loss(net(x), y, reduction='sum')",
    "F.mse_loss(net(x), y, reduction='none').mean()",
    "F.mse_loss(net(x), net(x).detach() + 1)",
]

PROGRAM = """
import json, sys, warnings
import torch
import torch.nn.functional as F
from lightning_gradtools.curvature import hessian_spectrum
from helpers.quadratics import dense_hessian

warnings.simplefilter("ignore")  # torch's own, of what it traces
torch.manual_seed(0)
net = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.Tanh(), torch.nn.Linear(6, 1)).double()
x, y = torch.randn(8, 4).double(), torch.rand(8, 1).double()
for source in json.loads(sys.argv[1]):
    loss = eval("lambda: " + source)
    exact = torch.linalg.eigvalsh(dense_hessian(loss, list(net.parameters())))
    found = hessian_spectrum(
        loss, net.parameters(), method="linearize", top_k=3, rtol=1e-8, generator=torch.Generator().manual_seed(0)
    )
    expected = exact[exact.abs().argsort(descending=True)][:3]
    print(json.dumps([source, found.method, found.eigenvalues.tolist(), expected.tolist()]), flush=True)
"""


@pytest.fixture(scope="module")
def traced():
    """What the process found of each loss, and how it ended."""
    root, shared = Path(lightning_gradtools.__file__).parents[1], Path(__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (root, shared))), "OMP_NUM_THREADS": "1"}
    code = [sys.executable, "-c", PROGRAM, json.dumps(LOSSES)]
    done = subprocess.run(code, env=environment, capture_output=True, text=True, check=False)
    found = {source: rest for source, *rest in map(json.loads, done.stdout.splitlines())}
    return found, f"exit status {done.returncode}: {done.stderr[-1000:]}"


@pytest.mark.parametrize("loss", LOSSES)
def test_eigenvalues_are_those_of_the_dense_hessian(traced, loss):
    found, ending = traced
    assert loss in found, ending
    method, eigenvalues, expected = found[loss]
    assert method == "linearize"
    assert eigenvalues == pytest.approx(expected, rel=1e-7)
