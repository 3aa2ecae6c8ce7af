import json

from lightning_gradtools.cli.sweep import sweep_table


def run(folder, number, overrides, objective):
    (folder / str(number) / ".hydra").mkdir(parents=True)
    (folder / str(number) / ".hydra" / "overrides.yaml").write_text("".join(f"- {o}\n" for o in overrides))
    if objective is not None:
        metrics = json.dumps({"metrics": {"val/loss": objective}})
        (folder / str(number) / "summary.json").write_text(metrics)


def test_best_first_failed_last_and_only_what_differs(tmp_path):
    for number, lr, objective in [(0, 1.0, float("nan")), (1, 0.1, 0.5), (2, 0.01, 0.25), (10, 9, None)]:
        run(tmp_path, number, [f"optimizer.lr={lr}", "model=cnn"], objective)
    rows = [line.split() for line in sweep_table(tmp_path, "val/loss", "min").splitlines() if line]
    assert rows == [
        ["run", "swept", "val/loss"],
        ["2", "optimizer.lr=0.01", "0.25"],
        ["1", "optimizer.lr=0.1", "0.5"],
        ["0", "optimizer.lr=1.0", "nan"],
        ["10", "optimizer.lr=9", "failed"],
    ]


def test_max_turns_the_order_round(tmp_path):
    for number, value in enumerate((0.1, 0.9, 0.5)):
        run(tmp_path, number, [f"seed={number}"], value)
    rows = [line.split()[0] for line in sweep_table(tmp_path, "val/loss", "max").splitlines() if line]
    assert rows == ["run", "1", "2", "0"]
