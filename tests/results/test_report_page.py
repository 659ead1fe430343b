import json
import re
import shlex
import subprocess
import sys
import threading
from html import unescape

import plotly.graph_objects as go
import pytest
from click.testing import CliRunner

from raycompress.cli.commands.results import report as command
from raycompress.errors import MissingDependencyError, StorageError
from raycompress.results import store
from raycompress.results.journal.journal import Journal
from raycompress.results.record import SearchRecord
from raycompress.results.report import lanes, page, table
from raycompress.results.report.formatting import LOOKS
from raycompress.results.report.importance import ENOUGH, importance
from raycompress.states import TrialState
from tests.support.launching import raycompress
from tests.support.outside.browser import CHROMIUM, browser
from tests.support.searches import BEGAN, HOSTILE, header, searched, without_waiting

with_browser = pytest.mark.skipif(not CHROMIUM, reason="needs Chromium")
EVERYTHING = {"against-0", "against-1", "against-2", "importance", "layers", "parallel", "timeline"}


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    without_waiting(monkeypatch)


@pytest.fixture(scope="module")
def tab():
    with browser() as page_:
        yield page_


def figures(html):
    return json.loads(re.search(r'id="figures">(.*?)</script>', html, re.S)[1])


def written(tmp_path, *args, **changes):
    record = searched(tmp_path / "storage", *args, **changes)
    page.write(record, record.folder.report)
    return record


def coloured(value):
    """Put a colour where the page puts one."""
    if isinstance(value, dict):
        return {name: coloured(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [coloured(inner) for inner in value]
    return "#000" if isinstance(value, str) and value.startswith("--") else value


# what is on the page


def test_every_section_of_a_whole_search(tmp_path):
    html = page.render(searched(tmp_path, 24))
    assert set(figures(html)) == EVERYTHING
    assert "best, trial" in html
    assert "PED-ANOVA" in html
    assert "raycompress launch &#x27;/home/me/my files/exp.json&#x27;" in html
    assert "experiment.json" in html
    assert html.count("<tr") > 25


def test_plotly_knows_every_word_of_the_figures(tmp_path):
    for figure in figures(page.render(searched(tmp_path, 30))).values():
        go.Figure(coloured({"data": figure["data"], "layout": figure["layout"]}))


def test_a_search_without_trials_says_so(tmp_path):
    html = page.render(searched(tmp_path, 0))
    assert figures(html) == {}
    assert "No trial has begun yet" in html


def test_too_few_trials_for_importance(tmp_path):
    found = importance(searched(tmp_path, 1))
    assert found.shares == {}
    assert f"1 finished, and {ENOUGH} are needed" in found.why


def test_the_dimension_that_decides_is_the_most_important(tmp_path):
    shares = importance(searched(tmp_path, 200)).shares
    assert next(iter(shares)) == "layer0.conv1.sparsity"
    assert sum(shares.values()) == pytest.approx(1)


def test_where_chance_does_as_much_nothing_is_said(tmp_path):
    few = importance(searched(tmp_path, 16))
    assert few.shares == {}
    assert "none of the 6 dimensions stands out from chance" in few.why
    shuffled = searched(tmp_path, 200)
    for trial in shuffled.searched:
        trial.score = trial.score and trial.number * 617 % 997 / 997  # nothing to do with the proposals
    assert importance(shuffled).shares == {}


def test_the_level_of_chance_falls_with_more_trials(tmp_path):
    some, many = (importance(searched(tmp_path, count)) for count in (24, 200))
    assert many.chance < some.chance < next(iter(some.shares.values()))
    (line,) = figures(page.render(searched(tmp_path, 24)))["importance"]["layout"]["shapes"]
    assert line["x0"] == line["x1"] == some.chance


def test_a_file_that_changed_or_is_gone_is_launched_from_its_copy(tmp_path):
    launched = tmp_path / "my file's" / "exp.json"
    launched.parent.mkdir()
    launched.write_text("{}")
    record = searched(tmp_path, 2, file=str(launched))
    record.folder.experiment.write_text("{}")
    assert "<pre>raycompress launch " in page.render(record)
    for change, word in ((lambda: launched.write_text("{ }"), "has changed since"), (launched.unlink, "is gone")):
        change()
        html = page.render(record)
        assert word in html
        cp, again = unescape(re.search("<pre>(.*?)</pre>", html, re.S)[1]).splitlines()
        copy = launched.with_name(f"{record.id}.json")  # where the relative paths in it lead to what they did
        subprocess.run(cp, shell=True, check=True)
        assert copy.read_text() == "{}"
        assert shlex.split(again) == ["raycompress", "launch", str(copy)]


def test_equal_scores_have_no_cause(tmp_path):
    record = searched(tmp_path, 30)
    for trial in record.searched:
        trial.score = trial.score and 0.5
    assert "same score" in importance(record).why


def test_names_cannot_leave_their_place(tmp_path):
    record = searched(tmp_path, 16, layers=[HOSTILE, 'b" onclick="alert(2)', "%{x}<b>"], proposer=HOSTILE, file=HOSTILE)
    record.records[2].cause = HOSTILE
    html = page.render(record)
    assert HOSTILE not in html
    assert "<img src=x" not in html
    assert f"{HOSTILE}.sparsity" in unescape(html)
    names = figures(html)["layers"]["data"][0]["hovertext"]
    assert unescape(names[0]) == HOSTILE
    assert "<" not in names[0]  # Plotly's labels take some tags


def test_states_differ_without_colour():
    assert set(LOOKS) == set(TrialState)
    for attribute in ("sign", "symbol"):
        assert len({getattr(look, attribute) for look in LOOKS.values()}) == len(LOOKS)
    assert len({(look.colour, look.pattern) for look in LOOKS.values()}) == len(LOOKS)


def test_a_measure_that_is_new_is_plotted(tmp_path):
    record = searched(tmp_path, 12)
    for trial in record.searched:
        if trial.after:
            trial.after["latency_ms"] = 1.5
    assert figures(page.render(record))["against-3"]["layout"]["xaxis"]["title"]["text"] == "latency, ms"


def test_many_dimensions_are_cut_and_the_page_says_so(tmp_path):
    record = searched(tmp_path, 200, n_dimensions=100)
    html = page.render(record)
    assert "Shown are the 9 most important of 102 dimensions." in html
    assert len(figures(html)["parallel"]["data"][0]["dimensions"]) == 10
    assert len(table.fitting_dimensions(record, ["a"] * 10_000)) < 500


# lanes


def test_the_journal_says_which_slot(tmp_path):
    record = searched(tmp_path, 20)
    assert [span.lane for span in lanes.spans(record)] == [
        trial.slot for trial in sorted(record.records.values(), key=lambda trial: (trial.started, trial.number))
    ]


def test_trials_of_an_older_journal_do_not_overlap(tmp_path):
    record = searched(tmp_path, 40, slots=False)
    spans = lanes.spans(record)
    assert {trial.slot for trial in record.records.values()} == {None}
    assert {span.lane for span in spans} == {0, 1, 2, 3}
    ends = {}
    for span in spans:
        assert span.begin >= ends.get(span.lane, 0) - 0.02
        ends[span.lane] = span.end


def test_what_still_runs_lasts_to_the_last_event(tmp_path):
    folder = store.create(tmp_path, "x")
    journal = Journal(folder.journal)
    journal.append("experiment", t=BEGAN, **header(folder, []))
    journal.append("started", t=BEGAN, trial=1, sample={}, config={}, baseline=False, slot=0)
    journal.append("intermediate", t=BEGAN + 7, trial=1, step=1, values={"accuracy": 0.1})
    record = SearchRecord.open(folder.root)
    assert [(span.begin, span.end) for span in lanes.spans(record)] == [(0, 7)]
    assert "running" in page.render(record)
    journal.close()


# the record, in Python


def test_the_front_and_the_cell_of_a_notebook(tmp_path):
    record = searched(tmp_path, 16, name="x<y")
    assert record.best in record.pareto
    assert record.baseline not in record.pareto
    assert record.pareto[0].score == max(trial.score for trial in record.pareto)
    cell = record._repr_html_()
    assert "best, trial" in cell
    assert "17 of 17 trials ended" in cell
    assert "No trial has finished" in searched(tmp_path, 0)._repr_html_()


# the command


def test_the_command_prints_where_the_page_is(tmp_path):
    record = searched(tmp_path, 3)
    done = raycompress(tmp_path, "report", record.folder.root)
    assert (done.code, done.out, done.err) == (0, f"{record.folder.report}\n", "")
    assert record.folder.report.stat().st_size > 1_000_000
    done = raycompress(tmp_path, "report", "--storage", tmp_path, "-o", "here.html")
    assert (done.code, done.out) == (0, "here.html\n")


def test_where_nothing_can_be_written(tmp_path):
    record = searched(tmp_path, 1)
    done = raycompress(tmp_path, "report", record.folder.root, "-o", tmp_path / "no" / "such" / "folder.html")
    assert done.code == StorageError.exit_code
    assert "cannot write" in done.err
    assert "Traceback" not in done.err


def test_without_plotly(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "plotly.offline", None)
    with pytest.raises(MissingDependencyError, match="plotly") as caught:
        page.check_libraries()
    assert "raycompress[report]" in str(caught.value)


# in a real browser


@with_browser
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize(
    ("n_trials", "drawn"), [(0, 0), (1, 5), (16, 6), pytest.param(1000, 7, marks=pytest.mark.night)]
)
def test_in_a_browser(tmp_path, tab, n_trials, drawn, dark):
    record = written(tmp_path, n_trials, n_dimensions=100 if n_trials >= 250 else 4)
    tab.errors.clear()
    tab.requests.clear()
    tab.look(dark=dark)
    tab.open_report(record.folder.report)
    assert tab.ask("document.querySelectorAll('.plot .main-svg').length > 0") is (drawn > 0)
    assert (
        tab.ask("[...document.querySelectorAll('.plot')].filter((p) => p.querySelector('.main-svg')).length") == drawn
    )
    assert tab.ask("document.querySelectorAll('#trials tbody tr').length") == (n_trials + 1 if n_trials else 0)
    assert tab.ask("document.documentElement.scrollWidth <= innerWidth")
    assert tab.errors == []
    assert {url for url in tab.requests if not url.startswith("data:")} == {record.folder.report.as_uri()}


@with_browser
def test_hostile_names_in_a_browser(tmp_path, tab):
    record = written(tmp_path, 16, layers=[HOSTILE, "b"], proposer=HOSTILE)
    tab.errors.clear()
    tab.look()
    tab.open_report(record.folder.report)
    assert tab.ask("document.querySelectorAll('img').length") == 0
    label = tab.ask("document.querySelector('#layers .ytick text').textContent")
    assert label.startswith("</script>")
    assert tab.errors == []


@with_browser
def test_the_table_sorts_by_keyboard_and_mouse(tmp_path, tab):
    record = written(tmp_path, 30)
    tab.look()
    tab.open_report(record.folder.report)
    column = "[...document.querySelectorAll('#trials tbody tr')].map((row) => row.cells[2].dataset.value)"
    aria = "document.querySelectorAll('#trials th')[2].getAttribute('aria-sort')"
    assert tab.ask(aria) == "none"
    tab.ask("document.querySelectorAll('#trials th button')[2].focus()")
    tab.press("Enter", 13)
    scores = [float(score) for score in tab.ask(column) if score]
    assert tab.ask(aria) == "ascending"
    assert scores == sorted(scores)
    tab.ask("document.querySelectorAll('#trials th button')[2].click()")
    assert tab.ask(aria) == "descending"
    rows = tab.ask(column)
    assert [float(score) for score in rows if score] == scores[::-1]
    without = sum(trial.score is None for trial in record.records.values())
    assert without
    assert rows[-without:] == [""] * without  # nothing is last, whichever way
    tab.ask("document.querySelectorAll('#trials th button')[1].click()")
    states = tab.ask("[...document.querySelectorAll('#trials tbody tr')].map((row) => row.cells[1].textContent)")
    assert states == sorted(states)


@with_browser
def test_plots_follow_light_and_dark(tmp_path, tab):
    record = written(tmp_path, 16)
    tab.look()
    tab.open_report(record.folder.report)
    paper = "document.getElementById('timeline').layout.paper_bgcolor"
    bars = "document.getElementById('layers').data[0].marker.color"
    light = tab.ask(paper), tab.ask(bars)
    tab.look(dark=True)
    tab.wait(f"{paper} !== {json.dumps(light[0])}")
    tab.wait(f"{bars} !== {json.dumps(light[1])}")
    assert tab.ask(bars).startswith("#")


@with_browser
def test_all_bars_of_the_timeline_are_of_one_height(tmp_path, tab):
    record = written(tmp_path, 24)
    tab.look()
    tab.open_report(record.folder.report)
    bars = "[...document.querySelectorAll('#timeline .bars .point path')].map((bar) => bar.getBBox().height)"
    heights = tab.ask(bars)
    assert len(heights) == 25
    assert max(heights) - min(heights) < 1.5


@with_browser
def test_on_a_phone_the_axes_keep_their_distance(tmp_path, tab):
    record = written(tmp_path, 16)
    tab.look(width=390)
    tab.open_report(record.folder.report)
    assert tab.ask("document.getElementById('parallel').offsetWidth") >= 640
    assert tab.ask("document.documentElement.scrollWidth <= innerWidth")


@with_browser
def test_without_webgl_the_plot_that_needs_it_says_so(tmp_path):
    record = written(tmp_path, 16)
    with browser("--disable-3d-apis") as tab:
        tab.look()
        tab.open_report(record.folder.report)
        assert "needs WebGL, which this browser does not offer" in tab.ask(
            "document.getElementById('parallel').innerText"
        )
        assert tab.ask("document.querySelectorAll('#timeline .main-svg').length > 0")
        assert tab.errors == []


@with_browser
def test_on_paper(tmp_path, tab):
    record = written(tmp_path, 16)
    tab.errors.clear()
    tab.look(dark=True)
    tab.open_report(record.folder.report)
    tab.print(tmp_path / "report.pdf")
    assert (tmp_path / "report.pdf").read_bytes().startswith(b"%PDF")
    tab.wait("document.getElementById('timeline').layout.autosize === true")  # back on the screen
    assert tab.errors == []


@with_browser
def test_live(tmp_path, tab, monkeypatch):
    monkeypatch.setattr(command, "EVERY_S", 0.3)
    monkeypatch.setattr(command, "_IDLE", 0)
    folder = store.create(tmp_path, "x")
    journal = Journal(folder.journal)
    journal.append("experiment", t=BEGAN, **header(folder, []))
    results = []
    follower = threading.Thread(
        target=lambda: results.append(CliRunner().invoke(command.report, [str(folder.root), "--live"]))
    )
    follower.start()
    while not folder.report.exists():
        assert follower.is_alive()
    tab.look()
    tab.open_report(folder.report)
    for number in range(1, 60):
        journal.append("started", t=BEGAN, trial=number, sample={}, config={}, baseline=False, slot=0)
    drawn = "document.documentElement.dataset.drawn !== undefined"
    tab.wait(f"{drawn} && document.querySelectorAll('#trials tbody tr').length === 59")
    tab.ask("scrollTo(0, 300)")
    journal.append("finished", t=BEGAN + 1, reason="complete", detail="")
    journal.close()
    follower.join()
    tab.wait(f"{drawn} && !document.documentElement.dataset.reload")
    assert tab.ask("scrollY") == 300
    assert (results[0].exit_code, results[0].output) == (0, f"{folder.report}\n")
