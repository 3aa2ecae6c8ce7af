"""Results of experiments stand in tables under docs/, beside the command that gives them; prose names one or two."""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MOST = 3  # figures in a sentence that a reader can still compare

NOT_PROSE = re.compile(
    r"```.*?```|``.*?``|`[^`]*`"  # code
    r"|:math:`[^`]*`|\.\. math::.*?(?=\n\s*\n\S|\Z)"  # formulas
    r"|^\s*\|.*?$|^ *=[= ]{8,}$.*^ *=[= ]{8,}$"  # tables
    r"|arXiv:[\d.]+|\b(?:section|equation|chapters?|appendix|volume|table) [\d.]+|\b\d+:\d+\b"  # places in papers
    r"|\b(?:19|20)\d\d\b"  # years
    r"|\b(?:torch|Lightning|Python|NumPy|TensorBoard|scikit-learn|pip)\w* (?:>= |≥ )?[\d.]+|[≥<>=]=? ?\d[\d.]*"
    r"|\[[^\]\n]*\]|\((?:[\w.]+, )+[\w.]*\)",  # intervals, shapes, references
    re.DOTALL | re.MULTILINE,
)
NUMBER = r"\d+(?:,\d{3})*(?:\.\d+)?(?:e-?\d+)?"
UNIT = (
    r"(?: ?%| ?[mµ]?s\b| [kMG]i?B\b| (?:percent|seconds|minutes|times|gradients|products|runs|networks|seeds|steps|"
    r"recipes|parameters|samples)\b|[MkG]\b)"
)
END = r"(?!\w|[/^*]|\.\d)"
FIGURE = re.compile(
    r"(?<![\w.^/*+-])"
    rf"(?:{NUMBER}(?={UNIT})"
    rf"|{NUMBER}{END}(?= (?:to|of|or|and|in|at) {NUMBER}\b)"
    rf"|(?<=to |of |at |in ){NUMBER}{END}"
    rf"|(?:\d[\d,]*\.\d+(?:e-?\d+)?|\d+e-?\d+|\d+,\d{{3}}){END})"
)
SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[A-Z…*(]|$)|\n\s*\n|\n\s*(?=\w+: )|\n\s*(?=[-*#] )")


def figures(sentence: str) -> list[str]:
    """Return what the sentence reports as numbers: with a unit, decimals or an exponent, in ranges and shares."""
    return FIGURE.findall(sentence)


def sentences(text: str) -> Iterator[str]:
    for sentence in SENTENCE.split(NOT_PROSE.sub(" … ", text)):
        if sentence.strip():
            yield " ".join(sentence.split())


def crowded(text: str) -> list[str]:
    return [sentence for sentence in sentences(text) if len(figures(sentence)) > MOST]


def docstrings(source: str) -> Iterator[str]:
    """Yield docstrings, and the strings that stand under a constant to document it."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield node.value.value


def comments(source: str) -> Iterator[str]:
    """Yield comments; those of successive lines are one text."""
    block, last = "", -1
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            if token.start[0] != last + 1:
                yield block
                block = ""
            block, last = f"{block}\n{token.string.lstrip('# ')}", token.start[0]
    yield block


def prose(path: Path) -> list[str]:
    source = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        return [*docstrings(source), *comments(source)]
    if path.suffix == ".yaml":
        return [line.partition("#")[2] for line in source.splitlines()]
    return [source]


FILES = [
    *sorted((ROOT / "lightning_gradtools").rglob("*.py")),
    *sorted((ROOT / "conf").rglob("*.yaml")),
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_sentence_is_a_table(path):
    assert [sentence for text in prose(path) for sentence in crowded(text)] == []


PLANTED = "It took 36 to 1,900 gradients on three networks and saved 0.3 of a product, 12% of the time."


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("docstring.py", f'def f():\n    """Return it.\n\n    {PLANTED}\n    """\n'),
        ("constant.py", f'X = 1\n"""{PLANTED}"""\n'),
        ("comment.py", "X = 1  # " + PLANTED.replace(" and", "\n# and") + "\n"),
        ("conf.yaml", f"x: 1  # {PLANTED}\n"),
        ("page.md", f"# Cost\n\n{PLANTED}\n"),
    ],
)
def test_one_that_is_planted_is_found(tmp_path, name, source):
    path = tmp_path / name
    path.write_text(source, encoding="utf-8")
    assert [sentence for text in prose(path) for sentence in crowded(text)] == [PLANTED]


@pytest.mark.parametrize(
    "sentence",
    [
        "It is 0.76% at 100 products (docs/curvature.md).",
        "Loshchilov & Hutter 2017, arXiv:1608.03983, section 2.2; Goyal et al. 2017, arXiv:1706.02677, section 5.1.",
        "A batch is (images, labels): float32 (batch, 1, 8, 8), or (batch, 64), for p in [0, 1] and r in [0.5, 2.5].",
        "Tested with torch 2.13, Lightning 2.6, Python 3.10 and NumPy 2.1.",
        "With ``lr=0.1, betas=(0.9, 0.999), eps=1e-8`` and :math:`0.5 + 1.5 - 2.5 \\cdot 3.5`.",
        "It is (1 + cos(pi p)) / 2 or 1 - p or (f(x + h) - f(x - h)) / (2 h) or 2 + 2 * 0.5 - 1 / 0.25.",
    ],
)
def test_what_is_no_result_does_not_count(sentence):
    assert crowded(sentence) == []
