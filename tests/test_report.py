"""What a person sees: pictures, page, JSON and terminal text, all of one Analysis."""

import base64
import dataclasses
import gzip
import html.parser
import itertools
import json
import pathlib
import re
import types

import numpy as np
import pandas as pd
import pytest
import simulated
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text

from scaling_jax import analysis, charts, fitting, models, report, study
from scaling_jax.charts import figure_of
from scaling_jax.cli import main as command
from scaling_jax.errors import UserError
from scaling_jax.fitting import plots
from scaling_jax.report import figures, figures_of_runs, tables
from scaling_jax.report import html as html_page
from scaling_jax.report import text as report_text
from scaling_jax.storage.workdir import FORMAT, Stored

ROOT = pathlib.Path(__file__).parents[1]


def analyse(table, curves=None, also=(), name="simulated"):
    fit = study.Fit(bootstrap=20, also=also)
    return analysis.analyse(table, curves, fit=fit, hold_out=study.HoldOut(cut=0.4), name=name)


def with_diverged():
    table = simulated.ladder(rates=(0.01, 0.02, 0.04))
    table.loc[table.lr == 0.04, "loss"] *= 1.1
    table.loc[(table.lr == 0.04) & (table.width > 40), ["status", "loss"]] = ["diverged", np.nan]
    table.loc[3, "status"] = "failed"
    return table


def as_images(table):
    error = 0.04 + 2.0 / table.params_matmul**0.35 + 25.0 / table.tokens**0.4
    return table.assign(error=error, accuracy=1 - error, macro_f1=0.99 - error, epochs=table.tokens / 8e6)


LADDERS = {
    "usual": simulated.ladder,
    "diverged": with_diverged,
    "one scale": lambda: simulated.ladder(widths=(32,)),
    "no budgets shared": lambda: simulated.ladder(flops=(), tokens=(1e6, 3e6, 1e7, 3e7), rates=(0.02,)),
    "huge range": lambda: simulated.ladder(
        widths=[int(16 * 1.6**i) for i in range(16)], flops=np.geomspace(1e12, 1e20, 6), tokens=(), rates=(0.02,)
    ),
    "none finished": lambda: simulated.ladder().assign(status="diverged", loss=np.nan),
    "images": lambda: as_images(simulated.ladder(flops=(), tokens=(1e6, 3e6, 1e7, 3e7), rates=(0.02,))),
}


@pytest.fixture(scope="module", params=LADDERS)
def found(request):
    table = LADDERS[request.param]()
    return analyse(table, simulated.curves(table, points=20), ("error",) if request.param == "images" else ())


@pytest.fixture(scope="module")
def usual():
    table = with_diverged()
    return analyse(table, simulated.curves(table))


def test_a_smoothed_curve_ends_in_more_than_one_batch_and_keeps_its_cool_down():
    step = np.arange(1, 4001.0)
    loss = 5 * step**-0.1 * (1 - 0.2 * np.clip(step / 4000 - 0.8, 0, None) / 0.2)
    loss[-1] = 9.0  # one odd batch
    tokens, smooth = figures_of_runs.smooth(np.column_stack([step, step * 10, loss])).T
    assert len(smooth) <= figures_of_runs.SMOOTHING_BINS
    assert (np.diff(tokens) < 0.06 * tokens[-1]).all()
    np.testing.assert_allclose(smooth, np.interp(tokens, step * 10, loss), rtol=0.1)


def test_text_fits_a_log_and_names_what_matters(found):
    text = report_text.summary(found, "report: runs/here/report/index.html")
    lines = text.splitlines()
    assert len(lines) <= 84 and max(map(len, lines)) <= 104
    assert lines[0].startswith(f"verdict: {found.verdict}") and f"{found.runs.counts['done']} runs done" in lines[0]
    flat = " ".join(text.split())
    for reason in found.reasons[: report_text.MAX_REASONS]:
        assert " ".join(reason.split()) in flat
    assert flat.index("verdict") < flat.find("N*", flat.find("frontier at")) or not len(found.frontier)
    assert lines[-1].startswith("report: runs/here/report/index.html")
    if found.fit is None:
        assert "no law fitted" in text
    else:
        for name, value in found.fit.params.items():
            assert f"{name} {value:.4g}" in text
    assert "nan" not in text and "None" not in text


# Drawn alike whatever the ladder: looked at once.
ONCE = {"surface", "parameters", "cost", "interval", "learning_curves"}


def test_nothing_is_clipped_or_written_over_something_else(found, request):
    names = set(figures.catalog(found))
    if request.node.callspec.params["found"] != "usual":
        names -= ONCE
    for name, chart in figures.charts(found, names).items():
        figure = figure_of(chart)
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        renderer, frame = canvas.get_renderer(), figure.bbox
        boxes, undrawn = [], set().union(*(_undrawn_ticks(ax) for ax in figure.axes))
        for text in figure.findobj(Text):
            if text in undrawn or not (text.get_visible() and text.get_text().strip()):
                continue
            box = text.get_window_extent(renderer)
            boxes.append((text.get_text(), box))
            inside = box.x0 >= -2 and box.y0 >= -2 and box.x1 <= frame.x1 + 2 and box.y1 <= frame.y1 + 2
            assert inside, f"{name}: {text.get_text()!r} is clipped"
        for (one, a), (other, b) in itertools.combinations(boxes, 2):
            overlap = min(a.x1, b.x1) - max(a.x0, b.x0) > 2 and min(a.y1, b.y1) - max(a.y0, b.y0) > 2
            assert not overlap, f"{name}: {one!r} is written over {other!r}"


def _undrawn_ticks(ax):
    """Labels of ticks outside the axes' limits: they exist but are not drawn."""
    out = set()
    for axis in (ax.xaxis, ax.yaxis):
        low, high = sorted(axis.get_view_interval())
        for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks()):
            if not low <= tick.get_loc() <= high:
                out |= {tick.label1, tick.label2}
    return out


def test_report_writes_a_page_its_main_picture_and_json(usual, tmp_path):
    (tmp_path / "isoflop.png").write_bytes(b"of an earlier report")
    text = report.write_report(usual, tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"frontier.png", "index.html", "summary.json", "summary.txt"}
    assert (tmp_path / "frontier.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "summary.txt").read_text() == text + "\n"


def test_every_figure_is_written_for_papers(tmp_path):
    for name in ("isoflop", "error_vs_compute", "someone's"):
        (tmp_path / f"{name}.png").write_bytes(b"of an earlier report")
    found = analyse(simulated.ladder(widths=(32,), flops=(1e12, 3e12), tokens=(), rates=(0.02,)))
    report.write_report(found, tmp_path, ("svg", "pdf"))
    drawn = set(figures.charts(found))
    assert {"frontier", "cost"} <= drawn
    assert {p.name for p in tmp_path.glob("*.*") if p.suffix in (".png", ".svg", ".pdf")} == {
        "someone's.png", *(f"{name}.{kind}" for name in drawn for kind in ("svg", "pdf")),
    }  # fmt: skip
    assert all((tmp_path / f"{name}.pdf").read_bytes().startswith(b"%PDF") for name in drawn)
    with pytest.raises(UserError, match="png, svg, pdf, not as 'gif'"):
        report.write_report(found, tmp_path / "other", ("gif",))
    assert not (tmp_path / "other").exists()


def test_a_further_metric_has_its_charts_text_and_numbers(tmp_path):
    table = as_images(simulated.ladder(rates=(0.02,)))
    found = analyse(table, also=("error",))
    text = report.write_report(found, tmp_path)
    other = found.also["error"]
    assert f"E {other.fit.params['E']:.4g}" in text and f"RMSLE {other.hold_out.rmsle:.2%}" in text
    page = (tmp_path / "index.html").read_text()
    assert {"error_frontier", "error_n_and_d"} <= {chart["name"] for chart in data_of(page)["charts"]}
    assert "Validation error (1 - accuracy)" in page and f"RMSLE {other.hold_out.rmsle:.2%}" in page
    read = json.loads((tmp_path / "summary.json").read_text())["also"]["error"]
    assert read["hold_out"]["rmsle"] == other.hold_out.rmsle
    assert {k: read["law"]["params"][k]["value"] for k in other.fit.params} == other.fit.params


def data_of(page):
    """The JSON that the page's script reads."""
    _, _, rest = page.partition('<script type="application/json" id="data">')
    return json.loads(rest.partition("</script>")[0])


def test_json_holds_the_numbers_of_the_analysis(found):
    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    text = json.dumps(report.as_json(found), allow_nan=False)
    read = json.loads(text, parse_constant=refuse)
    assert read["counts"]["done"] == found.runs.counts["done"]
    assert (read["verdict"], read["reasons"]) == (found.verdict, found.reasons)
    assert [c["name"] for c in read["checks"]] == [c.name for c in found.checks]
    if found.fit is None:
        assert read["law"] is None and read["why_not"]["fit"]
        return
    assert {k: v["value"] for k, v in read["law"]["params"].items() if k in found.fit.params} == found.fit.params
    assert [row["N"] for row in read["frontier"]] == list(found.frontier.N)
    assert read["hold_out"]["rmsle"] == found.hold_out.rmsle
    assert len(read["hold_out"]["runs"]) == len(found.hold_out.rows)


class Page(html.parser.HTMLParser):
    """Checks that tags close in order and collects links and text."""

    EMPTY = ("meta", "img", "input", "br", "hr")

    def __init__(self):
        super().__init__()
        self.open, self.links, self.words = [], [], []

    def handle_starttag(self, tag, attrs):
        self.links += [value for key, value in attrs if key in ("src", "srcset", "href")]
        assert tag not in ("link", "iframe")
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] != ["script"]:
            self.words.append(data)


def test_page_is_whole_and_offline(found):
    text = html_page.page(found, figures.charts(found))
    page = Page()
    page.feed(text)
    assert page.open == [] and set(page.links) <= {"frontier.png"}
    assert "@import" not in text and "url(" not in text.partition('id="plotly"')[0]
    words = " ".join(page.words)
    assert {row[0] for row in data_of(text)["runs"]["rows"]} == set(found.runs.table.run_id)
    for row in found.frontier.itertuples():
        assert (f"{row.C:.2e}" in words) == (found.verdict != "no answer")
    for sentence in (*found.warnings, *found.reasons, *found.notes, *(c.detail for c in found.checks)):
        assert sentence in words


def test_on_a_narrow_screen_each_cell_of_a_wide_table_is_named(usual):
    text = html_page.page(usual, {})
    for name in ("N*", "D*", "observed", "predicted"):
        assert f'data-name="{name}"' in text
    assert text.count('class="scroll wide"') == 7 and "prefers-color-scheme:dark" in text


HOSTILE = "</script><script>window.hacked=1</script><img src=x onerror=window.hacked=1><b>&w $\\frac$"


def test_a_page_of_many_runs_draws_a_part_and_says_so():
    n = 6000
    cloud = charts.Mark("points", np.arange(n), np.arange(n), scale="a", runs=[f"r{i}" for i in range(n)])
    line = charts.Mark("line", np.arange(n), np.arange(n))
    few = charts.Mark("points", [1.0], [2.0], scale="b", runs=["s"])
    panel = charts.Panel(charts.Axis("x"), charts.Axis("y"), (cloud, line, few))
    chart = charts.Chart("c", "t", "Seen.", (panel,))
    thin = chart.thinned(2500)
    drawn, whole, other = thin.panels[0].marks
    assert list(drawn.runs) == [f"r{i}" for i in range(0, n, 3)] and list(drawn.x) == list(range(0, n, 3))
    assert whole is line and other.runs == ["s"] and chart.thinned(n + 1) is chart
    assert thin.caption == "Seen. 2,001 of 6,001 runs are drawn, evenly from every scale."


def test_the_library_starts_only_what_charts_are_made_of():
    """In the installed plotly.js; a build without such a list stays whole."""
    packed = gzip.decompress(base64.b64decode(html_page.library())).decode()
    (started,) = re.findall(r"\.register\(\[((?:[\w$]+\(\),?)+)\]\)", packed)
    assert len(started.split(",")) == len(html_page.TRACES)
    assert html_page.with_traces("var a=1;", html_page.TRACES) == "var a=1;"


def test_a_scale_that_was_held_out_whole_has_a_circle_in_the_legend():
    held = np.array([False, False, True, True])
    points = plots.Points(np.array(["a", "b", "b", "c"]), ("a", "b", "c"), dict(a="A", b="B", c="C"), (), held)
    marks = points.marks(np.arange(4), np.arange(4))
    named = {mark.name: mark for mark in marks if mark.name}
    assert {n: named[n].symbol for n in "ABC"} == dict.fromkeys("ABC", "circle")
    assert len({named[n].color for n in "ABC"}) == 3 and named["held out"].symbol == "diamond"
    assert all(np.size(mark.x) == 0 for mark in named.values()) and sum(np.size(mark.x) for mark in marks) == 4


def test_samples_are_shown_and_escaped(usual):
    sample = {
        "scale": "w16", "run_id": "a1", "loss": 2.5, "prompt": "def <f>", "text": HOSTILE, "settings": "temperature 1",
    }  # fmt: skip
    assert "<h2>Samples</h2>" not in html_page.page(usual, {})
    page = html_page.page(usual, {}, {"samples": [sample]})
    assert "<h2>Samples</h2>" in page and "<b>def &lt;f&gt;</b>&lt;/script&gt;" in page and HOSTILE not in page


def test_page_escapes_what_it_shows():
    table = simulated.ladder(rates=(0.02,)).assign(scale=HOSTILE)
    found = analyse(table, name="<i>")
    text = html_page.page(found, figures.charts(found))
    assert "<script>window" not in text and "<img src=x" not in text and "<h1><i>" not in text
    assert data_of(text)["runs"]["rows"][0][1] == HOSTILE


def test_smoothing_keeps_the_ends_and_the_level():
    table = simulated.ladder(widths=(32,), rates=(0.02,), flops=(9e12,), tokens=())
    rows = simulated.curves(table, points=2000, noise=0.05)
    tokens, loss = figures_of_runs.smooth(rows[["step", "tokens", "loss"]].to_numpy()).T
    assert len(loss) <= figures_of_runs.SMOOTHING_BINS
    at = np.interp(np.log(tokens), np.log(rows.tokens), simulated.curves(table, points=2000, noise=0.0).loss)
    middle = slice(20, -8)
    np.testing.assert_allclose(loss[middle], at[middle], rtol=0.05)
    assert np.std(loss[middle] / at[middle] - 1) < 0.02


def workdir(folder, table, **fit):
    """A finished workdir with these results, without the study file and the data behind it."""
    for row in json.loads(table.to_json(orient="records")):
        run = folder / "runs" / row["run_id"]
        run.mkdir(parents=True)
        (run / "result.json").write_text(json.dumps(row))
        (run / "_SUCCESS").write_text("")
    wanted = study.Study(
        name="simulated", family=models.Transformer(), ladder=study.Ladder(widths=(16,)),
        budgets=study.Budgets(tokens=(1e6,)), fit=study.Fit(bootstrap=20, **fit), hold_out=study.HoldOut(cut=0.4),
    )  # fmt: skip
    stored = Stored(wanted.to_dict(), {}, {}, "d" * 16, "float32", "test", "cpu", tuple(table.run_id))
    (folder / "study.json").write_text(json.dumps({"format": FORMAT, **dataclasses.asdict(stored)}))
    return folder


@pytest.mark.slow
def test_fit_and_report_of_a_workdir_are_one_analysis(tmp_path, capsys):
    table = simulated.ladder(rates=(0.01, 0.02), seeds=(0, 1))
    folder, out = workdir(tmp_path / "w", table), tmp_path / "fit.json"
    flags = ("--target_flops=1e15", "--set=fit.huber_delta=0.01", "--metric=bits_per_byte", "--law=kaplan")
    for fit_flags, report_flags in (((), ()), (("--law=kaplan", "--delta=0.01", "--target_flops=1e15"), flags)):
        y = ["--y=bits_per_byte"] if report_flags else []
        assert command.main(["scaling-jax", "fit", f"--results={folder}", f"--out={out}", *fit_flags, *y]) == 0
        text = capsys.readouterr().out
        assert command.main(["scaling-jax", "report", f"--workdir={folder}", *report_flags]) == 0
        summary = json.loads((folder / "report" / "summary.json").read_text())
        fit = fitting.load(out)
        assert {k: summary["law"]["params"][k]["value"] for k in fit.params} == dict(fit.params)
        assert f"verdict: {summary['verdict']}" in text and summary["counts"]["fitted"] == 50
        assert summary["law"]["name"] == fit.law.name


@pytest.mark.slow
def test_the_code_of_the_documentation_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    every, few = figures.catalog, ("frontier", "isoflop", "residuals", "parameters")  # drawing them all takes long
    monkeypatch.setattr(figures, "catalog", lambda found: {k: v for k, v in every(found).items() if k in few})
    table = simulated.ladder(rates=(0.02,))
    workdir(tmp_path / "runs" / "mine", table)
    workdir(tmp_path / "runs" / "other", table.assign(loss=table.loss * 1.02))
    blocks = re.findall(r"```(python|bash)\n(.*?)```", (ROOT / "docs" / "report.md").read_text(), flags=re.S)
    for language, code in blocks:
        if language == "python":
            exec(compile(code, "docs/report.md", "exec"), {})
        elif "--track" not in code and "watch" not in code:  # tests/test_live.py trains
            assert command.main(code.split()) == 0, capsys.readouterr()
    folder = tmp_path / "runs" / "mine" / "report"
    assert (tmp_path / "frontier.pdf").exists() and (tmp_path / "compare.html").exists()
    assert {p.stem for p in folder.glob("*.svg")} >= {"frontier", "isoflop", "residuals", "parameters"}


def test_several_workdirs_are_reported_together(tmp_path, capsys):
    table = simulated.ladder(rates=(0.02,))
    one, two = table[table.width < 60], table[table.width > 40]
    first, second = workdir(tmp_path / "a", one), workdir(tmp_path / "b", two)
    args = [
        "scaling-jax",
        "report",
        f"--workdir={first}",
        f"--workdir={second}",
        "--set=fit.bootstrap=0",
        f"--out={tmp_path / 'c'}",
    ]
    assert command.main(args) == 0
    assert "25 runs done" in capsys.readouterr().out
    assert (tmp_path / "c" / "index.html").exists() and not (first / "report").exists()


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "null", '{"study": 3}', '{"study": {"name": "x", "fit": {"law": 3}}}', "[" * 20000]
)
def test_a_damaged_study_record_is_one_line(content, tmp_path, capsys):
    folder = workdir(tmp_path / "w", simulated.ladder(rates=(0.02,)))
    (folder / "study.json").write_text(content)
    assert command.main(["scaling-jax", "report", f"--workdir={folder}"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("scaling-jax: ") and error.count("\n") == 1


def test_names_with_dollars_and_underscores_are_drawn_as_they_are():
    table = simulated.ladder(rates=(0.02,)).rename(columns={"loss": r"loss $\frac$"})
    table["scale"] = table.scale.map(
        {s: n for s, n in zip(table.scale.unique(), ("$a$b", r"$\frac$", "_c", "d$", "e"))}
    )
    found = analysis.analyse(table, fit=study.Fit(bootstrap=0, metric=r"loss $\frac$"), name="$x$")
    for chart in figures.charts(found).values():
        figure_of(chart).canvas.draw()
    figure = figure_of(figures.frontier(found))
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert any(label.startswith("$a$b") for label in labels) and any("_c" in label for label in labels)
    assert r"loss $\frac$" in figure.axes[0].get_ylabel()


def test_a_fit_draws_itself():
    table = simulated.ladder(rates=(0.02,))
    fit = fitting.fit("chinchilla", {"N": table.params_matmul, "D": table.tokens}, table.loss)
    left, right = fit.plot().axes
    assert len(left.collections) >= 4 and right.get_xscale() == "log"
    assert [ax.get_xlabel() for ax in fit.plot("residuals").axes] == ["N", "D"]
    assert [ax.get_xlabel() for ax in fit.plot("parameters").axes] == list(fit.free)
    assert fit.plot("surface").axes[0].get_ylabel() == "D"
    one = fitting.fit("power_offset", {"x": table.flops}, table.loss)
    assert one.plot().axes[0].get_xlabel() == "x"
    with pytest.raises(fitting.FitError, match="choose one of n_and_d, surface, residuals, parameters"):
        fit.plot("pie")
    with pytest.raises(fitting.FitError, match="has no data"):
        fitting.published["hoffmann2022"].plot()


def test_the_optimum_of_a_sweep_lies_between_the_rates():
    x = np.array([0.001, 0.003, 0.01, 0.03])
    best = figures_of_runs.optimum(x, np.exp(0.1 * (np.log(x) - np.log(0.004)) ** 2))
    np.testing.assert_allclose(best, (0.004, 1.0), rtol=1e-9)
    assert figures_of_runs.optimum(x, x) is None and figures_of_runs.optimum(x[:2], x[:2]) is None


def test_a_parameter_is_shown_where_its_resamples_and_its_profile_are():
    """One refit far off does not squeeze the others into a bin, and the profile is seen down to its threshold."""
    N, D = (v.ravel() for v in np.meshgrid(np.geomspace(1e7, 1e9, 5), np.geomspace(1e9, 1e11, 5)))
    noise = np.random.default_rng(0).normal(0, 0.003, N.size)
    fit = fitting.fit("chinchilla", {"N": N, "D": D}, (1.7 + 480 / N**0.35 + 2100 / D**0.37) * np.exp(noise))
    samples = fit.bootstrap(100, seed=0).columns()["alpha"].copy()
    samples[0] *= 30
    chart = plots.parameters(fit, ["alpha"], 0.9, types.SimpleNamespace(columns=lambda: {"alpha": samples}))
    low, high = chart.panels[0].x.limits
    profile = fit.profile("alpha", 0.9)
    assert low <= profile.lower < profile.upper <= high < 2 * fit.params["alpha"]


def test_held_out_runs_of_a_law_of_one_input_are_told_by_it():
    compute = np.geomspace(1e18, 1e22, 12)
    table = pd.DataFrame({"compute": compute, "loss": 1.7 + 40 * compute**-0.1})
    columns = {"x": "compute", "y": "loss"}
    found = analysis.analyse(table, fit=study.Fit(law="power_offset", bootstrap=20), columns=columns)
    header, *rows = tables.hold_out(found).header, *tables.hold_out(found).rows
    assert header[:3] == ("held-out run", "compute", "observed") and rows
    assert rows[-1][:2] == ("row 11", "1e+22") and not any("nan" in cell for row in rows for cell in row)
