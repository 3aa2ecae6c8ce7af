"""What a detector says to people: a verdict, a table, and both in a notebook. None needs anything but the run."""

from dataclasses import replace
from html.parser import HTMLParser

import pytest
from helpers.pathology_cases import HEALTHY, SICK, Classification, watch
from torch import nn

from lightning_gradtools import PathologyDetector
from lightning_gradtools.diagnosis import Severity
from lightning_gradtools.reporting.findings import console_table, verdict_line


class Page(HTMLParser):
    """The tags and the texts of a piece of HTML, which must close what it opens."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.texts, self.rows, self._open = set(), [], [], []
        self.feed(html)
        assert self._open == []

    def handle_starttag(self, tag, attributes):
        assert attributes == []
        self.tags.add(tag)
        self._open.append(tag)
        self.rows += [[]] if tag == "tr" else []

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, text):
        self.texts.append(text)
        if self._open[-1] in ("td", "th"):
            self.rows[-1].append(text)


@pytest.fixture(scope="module")
def healthy(tmp_path_factory):
    return watch(HEALTHY["relu stack"](), default_root_dir=tmp_path_factory.mktemp("healthy"))


@pytest.fixture(scope="module")
def sick(tmp_path_factory):
    return watch(SICK["killed units"](), default_root_dir=tmp_path_factory.mktemp("sick"))


def test_before_a_run_there_is_no_verdict():
    detector = PathologyDetector()
    assert detector.report() == "no verdict: no step was sampled yet"
    assert detector.table() == "no findings"
    assert Page(detector._repr_html_()).texts == [detector.report()]


def test_a_healthy_run_is_called_healthy_and_has_no_empty_table(healthy):
    assert healthy.report() == f"healthy: no findings in {len(healthy.history.observations)} sampled steps"
    assert healthy.table() == "no findings"
    assert Page(healthy._repr_html_()).texts == [healthy.report()]


def test_a_sick_run_is_told_in_one_line_with_the_layer_since_when_why_and_what_to_do(sick):
    verdict, worst = sick.report(), sick.findings[0]
    assert "\n" not in verdict
    assert verdict.startswith(
        f"sick: dead_relu in net.3 since step {worst.step} (1 more follow from it): 32 of 32 relu units"
    )
    assert verdict.endswith(f"; try: {worst.remedy[0].sentence}")


def test_its_table_has_a_line_for_the_cause_below_it_what_to_try_and_what_follows(sick):
    head, *lines = sick.table().splitlines()
    assert head.split() == ["severity", "kind", "layer", "step", "state", "what"]
    columns = [head.index(word) for word in ("kind", "layer", "step", "state", "what")]
    rows = [line for line in lines if "->" not in line and "with it:" not in line]
    assert [row.split()[:2] for row in rows] == [["critical", "dead_relu"]]
    assert lines[-1].strip() == "with it: stalled_training in (whole model)"
    assert all(row[column - 1] == " " != row[column] for row in rows for column in columns)
    advice = [line.split("->")[1].strip() for line in lines if "->" in line]
    assert advice[0].startswith(sick.findings[0].remedy[0].sentence)


def test_in_a_notebook_it_is_the_verdict_above_the_findings(sick):
    page = Page(sick._repr_html_())
    assert page.texts[0] == sick.report()
    head, first, second = page.rows
    assert head == ["severity", "kind", "layer", "step", "state", "what", "try"]
    assert (first[:3], second[:3]) == (
        ["critical", "dead_relu", "net.3"],
        ["warning", "stalled_training", "(whole model)"],
    )
    assert first[-1] == sick.findings[0].remedy[0].sentence


def test_a_layers_name_is_text_in_a_notebook_and_no_markup():
    net = nn.Sequential()
    for position, layer in enumerate(SICK["killed units"]().net):
        net.add_module(f"<script>alert({position})</script>", layer)
    detector = watch(Classification(net))
    assert "<script>alert(3)</script>" in detector.report()
    page = Page(detector._repr_html_())
    assert page.tags <= {"p", "b", "table", "thead", "tbody", "tr", "th", "td"}
    assert page.rows[1][2] == "net.<script>alert(3)</script>"


def test_what_is_resolved_or_lesser_is_no_sickness_and_stays_in_the_table(sick):
    resolved = [replace(finding, resolved_at=60) for finding in sick.findings]
    for findings in (resolved, [*resolved, replace(sick.findings[0], severity=Severity.INFO)]):
        others = f"({len(findings)} lesser or resolved)"
        verdict = f"healthy: nothing at warning or above stands after 12 sampled steps {others}"
        assert verdict_line(findings, 12) == verdict
    assert console_table(resolved).count("resolved at 60") == len(resolved)
    assert verdict_line([*resolved, sick.findings[0]], 12).startswith("sick: dead_relu in net.3")
