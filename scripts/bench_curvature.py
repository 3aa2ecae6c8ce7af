"""What a Hessian's spectrum costs, and how right it is: ours, and the peers that pip can fetch.

    python scripts/bench_curvature.py --quick             # about 2 minutes on a core
    python scripts/bench_curvature.py --json out.json     # 20 seeds
    python scripts/bench_curvature.py --peers             # peers too, in an environment that it makes
    python scripts/bench_curvature.py --memory            # peak memory alone

Workloads: W0, an MLP of 3,466 parameters on digits, whose dense Hessian in float64 is the truth; W1, an MLP of
26k; W2, a CNN of 71k; W3, a GPT of 0.81M on text with mathematical attention, whose truth is a Lanczos run in
float64 to 1e-8. Networks are trained first (100 steps of AdamW; GPT 60). A seed is a start vector on one of
the `--models` networks. Products are what does not depend on the load of the machine; "gradients" are CPU
time, of the whole call, divided by that of a forward and backward in the same process: quartiles and medians.
"Bare" is what that many calls of `torch.autograd.grad` on a retained graph cost, and building it, with nothing around
them: no way of making the same products can go below it.

A row shows what `linearize` costs before its first product, in gradients, and then for each: why
`method="auto"` does not try it. hessian-eigenthings has its current version in a git repository only, so it is
not among the peers.
"""

import argparse
import copy
import json
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import venv
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from lightning_gradtools.curvature import (
    FiniteDifferenceHessian,
    LinearizedHessian,
    RetainedHessian,
    Spectrum,
    hessian_spectrum,
)
from lightning_gradtools.curvature.quadrature import wasserstein
from lightning_gradtools.tasks import GPT, MLP
from lightning_gradtools.tasks.data.text import encode, standard_library_text

TARGETS = {"W0": (18, 14), "W1": (20, 16), "W2": (28, 22), "W3": (33, 26)}  # gradients: must, want
WORKLOADS = list(TARGETS)


class Workload:
    """A trained network, a probe batch and their loss."""

    def __init__(self, name: str, seed: int) -> None:
        torch.manual_seed(seed)
        self.name = name
        if name == "W3":
            self.net: nn.Module = GPT(vocab_size=98, context_length=64)
            self.ids = encode(standard_library_text(200_000))
        else:
            images, labels = load_digits(return_X_y=True)
            self.x, self.y = torch.tensor(images / 16, dtype=torch.float32), torch.tensor(labels)
            if name == "W2":
                self.x = self.x.reshape(-1, 1, 8, 8)
                self.net = nn.Sequential(
                    *(nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
                    *(nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.Flatten()),
                    *(nn.Linear(1024, 50), nn.ReLU(), nn.Linear(50, 10)),
                )
            else:
                self.net = MLP(64, 10, width=32 if name == "W0" else 128, depth=2)
        self.optimizer = torch.optim.AdamW(self.net.parameters(), lr=1e-3)
        self.train(60 if name == "W3" else 100)
        self.probe = self.batch()
        self.optimizer.zero_grad()

    def batch(self, size: int | None = None) -> tuple[Tensor, Tensor]:
        if self.name == "W3":
            at = torch.randint(len(self.ids) - 65, (size or 8,))
            windows = self.ids[at[:, None] + torch.arange(65)]
            return windows[:, :-1], windows[:, 1:]
        chosen = torch.randperm(len(self.x))[: size or 256]
        return self.x[chosen], self.y[chosen]

    def loss(self, net: nn.Module | None = None, probe: tuple[Tensor, Tensor] | None = None) -> Tensor:
        x, y = probe or self.probe
        with sdpa_kernel(SDPBackend.MATH):
            return F.cross_entropy((net or self.net)(x).flatten(0, -2), y.flatten())

    def train(self, steps: int) -> None:
        for _ in range(steps):
            self.optimizer.zero_grad()
            self.loss(probe=self.batch()).backward()
            self.optimizer.step()
        self.optimizer.zero_grad()

    def reference(self) -> tuple[Callable[[], Tensor], nn.Module]:
        net = copy.deepcopy(self.net).double()
        x, y = self.probe
        probe = (x.double() if x.is_floating_point() else x, y)
        return lambda: self.loss(net, probe), net

    def gradient_seconds(self) -> float:
        def once() -> float:
            begun = time.process_time()
            torch.autograd.grad(self.loss(), list(self.net.parameters()))
            return time.process_time() - begun

        once()
        return statistics.median(once() for _ in range(15))


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def run(work: Workload, seed: int, **options: Any) -> tuple[Spectrum, float]:
    begun = time.process_time()
    found = hessian_spectrum(work.loss, work.net.parameters(), generator=generator(seed), **options)
    return found, time.process_time() - begun


def seconds_of(action: Callable[[], Any], times: int = 9) -> float:
    """Return the CPU time of ``action``, median."""

    def once() -> float:
        begun = time.process_time()
        action()
        return time.process_time() - begun

    return statistics.median(once() for _ in range(times))


def bare(work: Workload, products: int) -> float:
    """Return the CPU time of a gradient graph and so many products on it, with nothing around them."""
    parameters = list(work.net.parameters())
    along = [torch.randn_like(parameter) for parameter in parameters]

    def loop() -> None:
        gradients = torch.autograd.grad(work.loss(), parameters, create_graph=True)
        for _ in range(products):
            torch.autograd.grad(gradients, parameters, along, retain_graph=True)

    return seconds_of(loop)


def linearize(work: Workload) -> dict[str, float]:
    """Return what tracing and a product cost, and a product on a retained graph, in gradients."""
    unit = work.gradient_seconds()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own
        tracing = seconds_of(lambda: LinearizedHessian(work.loss, work.net.parameters()), 1)
        traced = LinearizedHessian(work.loss, work.net.parameters())
    retained = RetainedHessian(work.loss, work.net.parameters())
    vector = traced.space.random(generator(0))
    traced.matvec(vector)
    product = seconds_of(lambda: traced.matvec(vector))
    kept = seconds_of(lambda: retained.matvec(vector))
    return {"tracing": tracing / unit, "product": product / unit, "retained": kept / unit}


def quartiles(values: list[float]) -> list[float]:
    return statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3


def top(work: Workload, seeds: list[int], truth: Tensor) -> list[dict[str, Any]]:
    products = run(work, 0)[0].products
    unit = work.gradient_seconds()
    least = bare(work, products) / unit
    rows = []
    for seed in seeds:
        found, seconds = run(work, seed)
        error = (found.eigenvalues - truth).abs()
        rows.append(
            {
                "products": found.products,
                "gradients_by_count": found.gradients_spent,
                "gradients": seconds / unit,
                "bare": least * (1 + found.products) / (1 + products),
                "error": float((error / truth.abs()).max()),
                "beyond_bound": int((error > found.bounds).any()),
                "converged": found.converged,
            }
        )
    return rows


def warm(work: Workload, seeds: list[int]) -> list[dict[str, Any]]:
    known = {k: run(work, 1000, top_k=k, keep_vectors=True)[0] for k in (1, 5)}
    work.train(20)
    unit = work.gradient_seconds()
    rows = []
    for seed in seeds:
        row = {}
        for k, before in known.items():
            for name, start in (("cold", None), ("warm", before)):
                found, seconds = run(work, seed, top_k=k, start=start)
                row[f"{name} top-{k}"] = (found.products, found.gradients_spent, seconds / unit)
        rows.append(row)
    return rows


def dense(work: Workload) -> Tensor:
    """Return all eigenvalues (3466,) of W0 from its dense Hessian in float64, by an independent route."""
    loss, net = work.reference()
    parameters = list(net.parameters())
    gradients = torch.autograd.grad(loss(), parameters, create_graph=True)
    flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
    rows = []
    for entry in torch.eye(len(flat), dtype=flat.dtype).split(64):
        found = torch.autograd.grad(flat, parameters, entry, retain_graph=True, is_grads_batched=True)
        rows.append(torch.cat([part.reshape(len(entry), -1) for part in found], 1))
    eigenvalues: Tensor = torch.linalg.eigvalsh(torch.cat(rows))
    return eigenvalues


def trace_and_density(work: Workload, exact: Tensor, seeds: list[int]) -> dict[str, Any]:
    trace, density, smoothed = [], [], []
    scale = float(exact.abs().mean())
    uniform = torch.full_like(exact, 1 / len(exact))
    for seed in seeds:
        found, _ = run(work, seed, trace=100)
        assert found.trace is not None
        assert found.products <= 100
        trace.append(abs(found.trace.value - float(exact.sum())) / abs(float(exact.sum())))
    for seed in seeds[: max(3, len(seeds) // 4)]:
        found, _ = run(work, seed, density=500, top_k=20)
        assert found.density is not None
        assert found.products <= 500
        density.append(wasserstein((found.density.support, found.density.weights), (exact, uniform)) / scale)
        low, high = float(found.density.support[0]), float(found.density.support[-1])
        grid = torch.linspace(low - 0.05 * (high - low), high + 0.05 * (high - low), 20_001, dtype=torch.float64)
        drawn = found.density.smoothed(grid)
        smoothed.append(wasserstein((grid, drawn), (exact, uniform)) / scale)
    ordered = sorted(trace)
    return {
        "trace_median": statistics.median(trace),
        "trace_p90": ordered[min(len(ordered) - 1, round(0.9 * (len(ordered) - 1)))],
        "density": statistics.median(density),
        "smoothed": statistics.median(smoothed),
    }


def finite_difference(work: Workload, seeds: list[int]) -> dict[str, float]:
    exact = RetainedHessian(work.loss, work.net.parameters())
    vectors = run(work, 0, top_k=1, keep_vectors=True)[0].eigenvectors
    assert vectors is not None
    random: list[float] = []
    steep: list[float] = []
    for seed in seeds:
        operator = FiniteDifferenceHessian(work.loss, work.net.parameters())
        direction = exact.space.random(generator(seed))
        for errors, v in ((random, direction / direction.norm()), (steep, vectors[0])):
            expected = exact @ v
            errors.append(float((operator @ v - expected).norm() / expected.norm()))
    return {"random direction, worst": max(random), "top eigenvector, worst": max(steep)}


PEAKS: dict[str, dict[str, Any] | None] = {
    "one gradient": None,
    "differences": {"method": "finite_difference"},
    "retained graph": {"method": "retained"},
    "auto": {},
    "auto, memory=256 MiB": {"memory": 2**28},
    "auto, memory=32 MiB": {"memory": 2**25},
}


def peak_mib(what: str) -> float:
    """Return the growth of the peak memory of a process that does ``what`` on W3 at batch 64, in MiB."""
    code = [sys.executable, __file__, "--peak-of", what]
    return float(subprocess.run(code, capture_output=True, text=True, check=True).stdout)


def peaks() -> dict[str, float]:
    print("peak memory on W3 at batch 64, MiB more than before; a spectrum stops after 16 gradients:")
    found = {}
    for what in PEAKS:
        found[what] = peak_mib(what)
        print(f"    {what:24}{found[what]:6.0f}", flush=True)
    return found


def high_water_kib() -> float:
    """Return the peak memory of this process; Linux counts its parent's into ``ru_maxrss``, but not here."""
    status = Path("/proc/self/status")
    if status.exists():
        return float(next(line.split()[1] for line in status.read_text().splitlines() if line.startswith("VmHWM")))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def memory(what: str) -> None:
    work = Workload("W3", 0)
    probe = work.batch(64)
    before = high_water_kib()
    options = PEAKS[what]
    if options is None:
        torch.autograd.grad(work.loss(probe=probe), list(work.net.parameters()))
    else:
        hessian_spectrum(lambda: work.loss(probe=probe), work.net.parameters(), budget=16, **options)
    print((high_water_kib() - before) / 1024)


PEERS = """
import json, sys, time, warnings
warnings.simplefilter("ignore")
sys.path.insert(0, sys.argv[1])
import torch
torch.set_num_threads(1)
import bench_curvature as bench
try:  # not part of what the first run costs
    import curvlinops, pyhessian, scipy.sparse.linalg
except ImportError:
    pass  # each run says which
names, found = sys.argv[2].split(","), {}
for name in names:
    work = bench.Workload(name, 0)
    unit = work.gradient_seconds()
    loss, net = work.reference()
    truth = bench.hessian_spectrum(loss, net.parameters(), rtol=1e-8, generator=bench.generator(1)).eigenvalues
    def record(label, run):
        begun = time.process_time()
        try:
            values = torch.as_tensor(sorted(run(), key=abs, reverse=True), dtype=torch.float64)
            error = float(((values - truth).abs() / truth.abs()).max())
            found[f"{name} {label}"] = {"gradients": (time.process_time() - begun) / unit, "error": error}
        except Exception as problem:
            found[f"{name} {label}"] = {"failed": f"{type(problem).__name__}: {problem}"[:200]}
    class Cost:
        def __init__(self, probe): self.probe = probe
    def criterion(out, y): return torch.nn.functional.cross_entropy(out.flatten(0, -2), y.flatten())
    def pyhessian(tol):
        from pyhessian import hessian
        with bench.sdpa_kernel(bench.SDPBackend.MATH):
            h = hessian(work.net, criterion, data=work.probe, cuda=False)
            return h.eigenvalues(maxIter=200, tol=tol, top_n=5)[0]
    def curvlinops():
        from curvlinops import HessianLinearOperator
        from scipy.sparse.linalg import eigsh
        with bench.sdpa_kernel(bench.SDPBackend.MATH):
            params = [p for p in work.net.parameters()]
            flat = torch.nn.Sequential(work.net, torch.nn.Flatten(0, -2)) if name == "W3" else work.net
            loss = torch.nn.CrossEntropyLoss()  # it reads its reduction
            op = HessianLinearOperator(flat, loss, params, [(work.probe[0], work.probe[1].flatten())])
            return eigsh(op.to_scipy(), k=5, which="LM", tol=1e-3, return_eigenvectors=False)
    record("PyHessian tol 1e-3", lambda: pyhessian(1e-3))
    record("curvlinops + eigsh 1e-3", curvlinops)
print(json.dumps(found))
"""


def peers(names: list[str]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        venv.create(f"{folder}/venv", with_pip=True, system_site_packages=False)
        python = f"{folder}/venv/bin/python"
        here = Path(__file__).resolve()
        constraints = here.parents[1] / "constraints.txt"
        wanted = ["pyhessian", "curvlinops-for-pytorch", "scikit-learn", "scipy"]
        install = [python, "-m", "pip", "install", "-q", "--disable-pip-version-check", "-c", str(constraints)]
        subprocess.run([*install, *wanted, str(here.parents[1])], check=True)
        # curvlinops brings one that is built for another torch, and torchmetrics imports it where it is found
        subprocess.run([python, "-m", "pip", "uninstall", "-q", "-y", "torchvision"], check=True)
        script = Path(folder, "peers.py")
        script.write_text(PEERS)
        done = subprocess.run(
            [python, str(script), str(here.parent), ",".join(names)], capture_output=True, text=True, check=False
        )
        return json.loads(done.stdout) if done.returncode == 0 else {"failed": done.stderr[-2000:]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="6 seeds on 2 networks, no memory")
    parser.add_argument("--workloads", default=",".join(WORKLOADS))
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--models", type=int, default=4, help="networks that the seeds are spread over")
    parser.add_argument("--peers", action="store_true")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--memory", action="store_true", help="peak memory alone, about 3 minutes")
    parser.add_argument("--peak-of", choices=PEAKS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.peak_of:
        memory(arguments.peak_of)
        return
    if arguments.memory:
        peaks()
        return
    seeds, models = (6, 2) if arguments.quick else (arguments.seeds, arguments.models)
    report: dict[str, Any] = {"torch": torch.__version__, "machine": platform.platform(), "seeds": seeds}
    names = arguments.workloads.split(",")
    print(f"top 5 to 1e-3, median of {seeds} seeds (gradients: CPU time; must and want: targets)")
    heads = (
        *(("products", 10), ("(quartiles)", 14), ("gradients", 11), ("(quartiles)", 14), ("bare", 7), ("by count", 10)),
        *(("must", 6), ("want", 6), ("worst error", 13)),
    )
    print(" " * 4 + "".join(f"{head:>{width}}" for head, width in heads) + "  beyond bound")
    for name in names:
        rows: list[dict[str, Any]] = []
        exact: Tensor | None = None
        work = Workload(name, 0)
        for model in range(models):
            work = Workload(name, model)
            loss, net = work.reference()
            truth = hessian_spectrum(loss, net.parameters(), rtol=1e-8, generator=generator(99), top_k=6)
            rows += top(work, list(range(model, seeds, models)), truth.eigenvalues[:5])
            if model == 0 and name == "W0":
                exact = dense(work)
                apart = (exact[exact.abs().argsort(descending=True)][:5] - truth.eigenvalues[:5]).abs().max()
                report["W0 reference against dense"] = float(apart)
        middle = {key: statistics.median(row[key] for row in rows) for key in rows[0]}
        beyond, worst = sum(row["beyond_bound"] for row in rows), max(row["error"] for row in rows)
        must, want = TARGETS[name]

        def spread(key: str, rows: list[dict[str, Any]] = rows) -> str:
            low, _, high = quartiles([row[key] for row in rows])
            return f"({low:.1f}-{high:.1f})"

        print(
            f"{name:4}{middle['products']:10.1f}{spread('products'):>14}{middle['gradients']:11.1f}"
            f"{spread('gradients'):>14}{middle['bare']:7.1f}{middle['gradients_by_count']:10.1f}{must:6}"
            f"{want:6}{worst:13.1e}{beyond:10}/{len(rows)}",
            flush=True,
        )
        report[name] = {"top-5": rows}
        if exact is not None:
            first = Workload(name, 0)
            report[name]["statistics"] = found = trace_and_density(first, exact, list(range(seeds)))
            print(
                "    trace at 100 products, median {trace_median:.2%}, p90 {trace_p90:.2%} (must 0.7%);".format(**found)
            )
            print("    density at 500 {density:.1%} (must 9%), smoothed {smoothed:.0%} (must 25%)".format(**found))
        if name == "W3":
            report[name]["finite difference"] = found = finite_difference(work, list(range(3)))
            print(f"    finite difference in float32 (must 1e-3): {found}")
        report[name]["linearize"] = found = linearize(work)
        print("    linearize: {tracing:.0f} to trace, {product:.2f} a product; retained {retained:.2f}".format(**found))
        report[name]["warm"] = rows = []
        for model in range(models):
            rows += warm(Workload(name, model), list(range(model, seeds, models)))
        for k in (1, 5):
            shown, target = [], "must 8" if k == 1 else "no target"
            for start in ("cold", "warm"):
                products = quartiles([row[f"{start} top-{k}"][0] for row in rows])
                spent = quartiles([row[f"{start} top-{k}"][2] for row in rows])
                shown.append(spent[1])
                print(
                    f"    {start} top-{k}: {products[1]:.1f} ({products[0]:.1f}-{products[2]:.1f}) products, "
                    f"{spent[1]:.1f} ({spent[0]:.1f}-{spent[2]:.1f}) gradients" + (f" ({target})" * (start == "warm"))
                )
            each = [row[f"warm top-{k}"][0] / row[f"cold top-{k}"][0] for row in rows]
            print(
                f"    warm over cold, top-{k}: {shown[1] / shown[0]:.2f} in gradients (must 1.1), in products "
                f"{statistics.median(each):.2f}, at most {max(each):.2f}",
                flush=True,
            )
    if not arguments.quick and "W3" in names:
        report["memory"] = peaks()
    if arguments.peers:
        report["peers"] = peers(names)
        for label, figures in report["peers"].items():
            print(f"{label}: {figures}")
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
