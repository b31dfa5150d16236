"""The page stands alone, shows every level and backend, and escapes what a backend says."""

import dataclasses
import re
from html.parser import HTMLParser

from sbp_conformance import BackendRun, Finding, Outcome, Report
from sbp_conformance.levels import cases_of
from sbp_conformance.page import render
from sbp_conformance.results import NotOffered

GRADIENT = Finding(quantity="gradient of the input", kind="gradient", error=3e-16)
WRONG = Finding(quantity="spikes", kind="spikes", error=3.0, problem="3 of 9 differ <b>here</b> & there")
VOID = {"meta", "br", "link", "img", "input", "hr"}


def outcome(*findings, level="neuron", case="neuron-a", mode="eager", dtype="float64", expected=None):
    fields = {"level": level, "case": case, "mode": mode, "dtype": dtype, "seed": 7, "seconds": 0.1}
    return Outcome(**fields, findings=findings, expected=expected)


LACK = NotOffered(kind="mode", name="compiled", checks=("neuron-c/compiled/float64",))
RUNS = (
    BackendRun(
        backend="torch", versions={"torch": "2.13"}, outcomes=(outcome(GRADIENT), outcome(GRADIENT, level="loss"))
    ),
    BackendRun(backend="<mine>:make", outcomes=(outcome(WRONG),), not_offered=(LACK,)),
    BackendRun(backend="gone", status="crashed", detail="killed by SIGSEGV\n<last words>"),
)
ENVIRONMENT = {"sbp": "0.1.0", "python": "3.11"}


class Balanced(HTMLParser):
    """Sees that every element is closed where it was opened, and collects what would reach for the network."""

    def __init__(self):
        super().__init__()
        self.open, self.reaching, self.rows = [], [], []

    def handle_starttag(self, tag, attrs):
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append(0)
        if tag in ("td", "th"):
            self.rows[-1] += 1
        self.reaching += [name for name, _ in attrs if name in ("src", "href", "srcset", "onclick")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def parsed(text):
    parser = Balanced()
    parser.feed(text)
    parser.close()
    assert parser.open == []
    return parser


def test_the_page_stands_alone():
    text = render(Report(runs=RUNS, environment=ENVIRONMENT))
    parser = parsed(text)
    assert parser.reaching == []
    for word in ("<script", "@import", "url(", "http:", "https:", "<link"):
        assert word not in text
    assert "prefers-color-scheme: dark" in text


def test_the_matrix_has_a_cell_for_every_level_and_backend():
    text = render(Report(runs=RUNS, environment=ENVIRONMENT))
    matrix = text[text.index('<table class="matrix">') : text.index("</table>")]
    lines = matrix.split("<tr")[2:]
    assert [re.findall(r'<td class="(\w+)"', line) for line in lines] == [
        ["good", "bad", "none"],
        ["good", "none", "none"],
    ]
    assert "<b>1</b>/1<small>f64 3e-16</small>" in lines[0]
    assert "<b>0</b>/1<small>1 failed &middot; 3 spikes</small>" in lines[0]
    assert "not offered" in lines[1]
    assert "crashed" in lines[1]


def test_what_went_wrong_is_told_with_the_command_that_repeats_it_and_escaped():
    text = render(Report(runs=RUNS, stale=("no-such-*",), environment=ENVIRONMENT))
    assert "spikes: 3 of 9 differ &lt;b&gt;here&lt;/b&gt; &amp; there" in text
    assert "--backend &#x27;&lt;mine&gt;:make&#x27; --case neuron-a --mode eager --dtype float64" in text
    assert "killed by SIGSEGV\n&lt;last words&gt;" in text
    assert "<code>no-such-*</code>" in text
    assert '<p class="badge bad">failed</p>' in text
    assert "<mine>" not in text


def test_expected_failures_and_what_is_not_offered_have_a_place():
    known = dataclasses.replace(RUNS[1], outcomes=(outcome(WRONG, expected="issue <12>"),))
    text = render(Report(runs=(known,), environment=ENVIRONMENT))
    assert '<p class="badge good">passed</p>' in text
    assert "<td><code>neuron-a/eager/float64</code></td><td>issue &lt;12&gt;</td>" in text
    assert 'class="partly"><b>1</b>/1<small>3 spikes &middot; 1 as expected</small>' in text
    assert "<td>mode <b>compiled</b></td>" in text
    assert "neuron-c" in text
    surprise = dataclasses.replace(known, outcomes=(outcome(GRADIENT, expected="issue 12"),))
    assert "passed, and was expected to fail: issue 12" in render(Report(runs=(surprise,)))


def test_a_report_of_nothing_is_a_page_too():
    parsed(render(Report(runs=())))


def test_the_command_writes_it(python, tmp_path):
    backend = "sbp_core.reference.backend:make_backend"
    done = python("-m", "sbp_conformance", "--backend", backend, "--level", "schedule", "--html", "deep/page.html")
    assert done.returncode == 0
    text = (tmp_path / "deep" / "page.html").read_text()
    parsed(text)
    schedules = len(cases_of("schedule"))
    assert f"<b>{schedules}</b>/{schedules}" in text
