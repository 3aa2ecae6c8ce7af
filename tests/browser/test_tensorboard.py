"""What a user sees: the run's curves in TensorBoard, opened in a browser."""

import contextlib
import json
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    "--virtual-time-budget=15000",
]


@contextlib.contextmanager
def tensorboard(folder):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = Path(sys.executable).with_name("tensorboard")
    server = subprocess.Popen(
        [program, "--logdir", str(folder), "--port", str(port), "--bind_all"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    address = f"http://localhost:{port}"
    try:
        for _ in range(120):
            with contextlib.suppress(OSError), urllib.request.urlopen(address, timeout=1):
                break
            time.sleep(0.5)
        yield address
    finally:
        server.terminate()
        server.wait()


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
def test_the_default_run_shows_each_layer_s_gradient_norm(gradtools_train, tmp_path):
    assert gradtools_train("trainer.max_epochs=2", "test=false") == 0
    (folder,) = tmp_path.glob("outputs/digits/*")
    with tensorboard(folder) as address:
        profile = f"--user-data-dir={tmp_path / 'profile'}"
        page = subprocess.run(
            [CHROMIUM, *FLAGS, profile, "--window-size=1500,2000", "--dump-dom", f"{address}/#timeseries"],
            capture_output=True,
            text=True,
            check=True,
            timeout=120,
        ).stdout
        with urllib.request.urlopen(f"{address}/data/plugin/timeseries/tags") as answer:
            tags = json.load(answer)["scalars"]["runTagInfo"]["tensorboard"]
    for group in ("grad_norm", "grad_norm_clipped", "clip", "lr-AdamW", "train", "val"):
        assert re.search(rf">\s*{group}\s*<", page), f"no group {group} on the page"
    layers = ("net.layers.0.linear", "net.layers.1.linear", "net.output")
    assert {f"grad_norm/{layer}" for layer in ("total", *layers)} <= set(tags)
