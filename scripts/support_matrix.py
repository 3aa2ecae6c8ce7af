"""Prints docs/support.md from the support matrix, ``tests/support/matrix.py``. Nothing is run for it.

python scripts/support_matrix.py > docs/support.md
"""

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from support.matrix import COLUMNS, ROWS, Column, Equal, NotOffered, Refused, Row, cell

SIGNS: dict[type, str] = {Equal: "=", NotOffered: "–", Refused: "R"}

HEAD = """# What works where

Every callback and option that touches tensors (rows), in every way to run a Trainer (columns). Printed from
`tests/support/matrix.py` by `python scripts/support_matrix.py`; `tests/test_support_matrix.py` walks every cell.

A cell is one of three:

- **=** equal to a loop in plain torch, in float64 and one process, over the same global batches, within the column's
  tolerance: what is measured relative to itself, weights relative to how far they have moved;
- **R** refused by name before the first step;
- **–** not offered: what the row is about is absent, all else is as it is elsewhere.

In all cells of what only watches (all but `GradientClipping`, `WeightInitialization` and the two schedules) weights
after each step are bit by bit those of the same run without it, and no callback has disabled itself.

What the columns FSDP1 and DeepSpeed say is what callbacks answer to a stand-in for the strategy when a fit begins; no
run was made under either.

The columns marked *fast* are walked by `make test`, the others by `make test-slow ARGS=tests/test_support_matrix.py`.
"""


def table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join("| " + " | ".join(each.replace("|", "\\|") for each in row) + " |" for row in rows) + "\n"


def callbacks() -> list[str]:
    """Return the callbacks of all rows, in order."""
    return list(dict.fromkeys(row.callback for row in ROWS))


def signs(callback: str, column: Column) -> str:
    """Return the signs of a callback's cells in a column, each once."""
    found = {SIGNS[type(cell(row, column))] for row in ROWS if row.callback == callback}
    return " ".join(sign for sign in SIGNS.values() if sign in found)


def rows_in_words(rows: Sequence[Row]) -> str:
    """Return names of rows, and a callback's own where all of its rows are among them."""
    names = []
    for callback in callbacks():
        own = [row for row in ROWS if row.callback == callback]
        here = [row for row in own if row in rows]
        names += [callback] if here == own and len(own) > 1 else [row.name for row in here]
    return ", ".join(names)


def exceptions() -> list[tuple[str, str, str]]:
    """Return rows, columns and text of all cells that are not equal within the column's tolerance."""
    texts: dict[tuple[str, str], list[str]] = {}
    for column in COLUMNS:
        grouped: dict[str, list[Row]] = {}
        for row in ROWS:
            text = in_words(cell(row, column))
            if text:
                grouped.setdefault(text, []).append(row)
        for text, rows in grouped.items():
            texts.setdefault((text, rows_in_words(rows)), []).append(column.name)
    return [(rows, "; ".join(columns), text) for (text, rows), columns in texts.items()]


def in_words(found: Equal | NotOffered | Refused) -> str:
    """Return what a cell says, "" for an equal one within the column's tolerance."""
    if isinstance(found, Refused):
        return f"R: “… {found.message} …”"
    if isinstance(found, NotOffered):
        said = f"; said once: “… {found.said} …”" if found.said else ""
        return f"–: {found.reason}{said}"
    return f"= within {found.within:g}: {found.because}" if found.within is not None else ""


def page() -> str:
    """Return the page."""
    names = callbacks()
    columns = [
        (
            each.name,
            each.how,
            str(each.ranks),
            f"{each.within:g}",
            f"{each.spectrum_within:g}",
            "" if each.slow else "fast",
        )
        for each in COLUMNS
    ]
    parts = [
        HEAD,
        "## The matrix\n",
        table(["", *names], [[each.name, *(signs(name, each) for name in names)] for each in COLUMNS]),
        "## Where it is not “=”\n",
        table(["rows", "columns", "what"], exceptions()),
        "## Columns\n",
        table(["column", "how", "ranks", "within", "eigenvalues within", "walked"], columns),
        "## Rows\n",
        table(["row", "what is compared"], [(each.name, each.compared) for each in ROWS]),
    ]
    return "\n".join(parts)


if __name__ == "__main__":
    sys.stdout.write(page())
