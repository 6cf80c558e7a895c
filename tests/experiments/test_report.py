"""The page against summary.csv, the ranking, and what they say when there is nothing."""

import csv
from html.parser import HTMLParser

import pytest

from experiments import analysis, choose, plot, plot_curves
from experiments.job import run
from experiments.page import COLUMNS, number
from experiments.record import write_csv

from .conftest import SHORT, composed


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    out = tmp_path_factory.mktemp("outputs")
    for optimizer in ("mcmc", "sgd", "sgd_pruned"):
        for seed in (0, 1):
            run(composed(f"optimizer={optimizer}", f"out={out}", f"seed={seed}", *SHORT[optimizer]))
    run(composed("optimizer=sgd", f"out={out}", *SHORT["sgd"], "optimizer.lr=0.001"))
    return out


class Page(HTMLParser):
    """Collects tables by id, tags, ids and addresses."""

    def __init__(self, text):
        super().__init__()
        self.tables, self.tags, self.ids, self.addresses = {}, [], [], []
        self._table, self._cell = None, False
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.tags.append(tag)
        if "id" in found:
            self.ids.append(found["id"])
        self.addresses += [found[key] for key in ("src", "href", "xlink:href") if key in found]
        if tag == "table":
            self._table = self.tables.setdefault(found["id"], [])
        elif tag == "tr" and self._table is not None:
            self._table.append([])
        elif tag in ("td", "th"):
            self._table[-1].append("")
            self._cell = True

    def handle_endtag(self, tag):
        self._cell = self._cell and tag not in ("td", "th")
        if tag == "table":
            self._table = None

    def handle_data(self, data):
        if self._cell:
            self._table[-1][-1] += data


def test_page_says_what_summary_csv_says(outputs, tmp_path, capsys):
    index = plot.plot([outputs], tmp_path / "page")
    parsed = Page(index.read_text(encoding="utf-8"))
    with (index.parent / "summary.csv").open() as file:
        rows = {row["label"]: row for row in csv.DictReader(file)}
    heads, *table = parsed.tables["summary"]
    assert len(table) == len(rows) == 4  # two settings of sgd
    for cells in table:
        row, cell = rows[cells[0]], dict(zip(heads, cells, strict=True))
        assert cell["seeds"] == row["n_seeds"]
        assert cell["joules"] == row["joules"]
        for heading, key, factor, digits in COLUMNS:
            sd = row[f"{key}_sd"]
            assert cell[heading] == number(float(row[f"{key}_mean"]), float(sd) if sd else None, factor, digits)
    assert "script" not in parsed.tags
    assert all(address.startswith("#") for address in parsed.addresses)
    assert len(parsed.ids) == len(set(parsed.ids))
    assert all(address[1:] in parsed.ids for address in parsed.addresses)
    assert parsed.tags.count("figcaption") == parsed.tags.count("figure") == 4
    svgs = {path.name for path in index.parent.glob("*.svg")}
    assert svgs == {"resistance.svg", "density.svg", "traces.svg", "acceptance-1.svg"}
    assert str(outputs) not in index.read_text(encoding="utf-8")
    assert "written to" in capsys.readouterr().out


def test_joules_are_a_mean_or_an_estimate_or_not_measured():
    class Made:
        def __init__(self, joules, estimated=None, assumption="7.5 W"):
            self.summary = {"joules": joules, "joules_estimated": estimated, "energy": {"assumption": assumption}}

    def of(*runs):
        return analysis.joules(analysis.Group("label", tuple(Made(*run) for run in runs)))

    assert of((1.0, 5.0), (3.0, 5.0)) == "2 ± 1.414"
    assert of((None, 5.0), (3.0, 7.0)) == "6 ± 1.414 (estimated)"
    assert of((None, 5.0), (3.0, 700.0, "750 W")).startswith("not comparable")
    assert of((None, None), (3.0, 7.0)) == "not measured"
    old = Made(None)
    old.summary = {"joules": None}  # of a version that had no estimates
    assert analysis.joules(analysis.Group("label", (old,))) == "not measured"


def test_numbers_of_the_summary(outputs):
    sets = {group.label: group for group in analysis.groups(analysis.find_runs([outputs, outputs / "digits"]))}
    assert sets["mcmc"].seeds == [0, 1]
    label = next(label for label in sets if label.startswith("sgd ") and len(sets[label].runs) == 2)
    differences = analysis.paired_differences(list(sets.values()))
    mine = next(d for d in differences if d.label == f"mcmc − {label}" and d.basis == "all")
    one, two = (sets["mcmc"].values("area_all") - sets[label].values("area_all")).tolist()
    assert mine.n == 2
    assert mine.mean == pytest.approx((one + two) / 2)
    assert mine.half_width == pytest.approx(12.7062 * abs(one - two) / 2, rel=1e-4)  # t at 1 degree of freedom


def test_area_is_a_mean_accuracy():
    import numpy as np

    assert analysis.area(np.array([0.0, 0.5, 0.99]), np.full(3, 0.7)) == pytest.approx(0.7)


def test_choose_ranks_by_validation_and_never_opens_test_results(outputs, tmp_path, capsys):
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(outputs, copy)
    for name in ("summary.json", "checkpoint.pt"):
        for path in copy.rglob(name):
            path.unlink()
    for path in (*copy.rglob("resistance.csv"), *copy.rglob("metrics.csv")):
        with path.open() as file:
            table = [{k: v for k, v in row.items() if not k.startswith("test")} for row in csv.DictReader(file)]
        write_csv(path, list(table[0]), table)
    rows = choose.ranking([copy])
    values = [row["validation_accuracy"] for row in rows]
    assert values == sorted(values, reverse=True)
    assert {row["n_seeds"] for row in rows if row["name"] == "mcmc"} == {2}
    assert [row["differs"] for row in rows if row["name"] == "sgd" and row["n_seeds"] == 1] == [{"optimizer.lr": 0.001}]
    assert choose.main([str(copy)]) == 0
    assert "optimizer.lr" in capsys.readouterr().out
    pruned = choose.ranking([copy], at=0.9, max_active=0.5)
    assert {row["name"] for row in pruned} == {"sgd_pruned"}
    with pytest.raises(ValueError, match=r"--at 0\.123"):
        choose.ranking([copy], at=0.123)


def test_choosing_needs_validation_data(outputs, tmp_path):
    import shutil

    shutil.copytree(outputs, tmp_path / "copy")
    for path in (tmp_path / "copy").rglob("metrics.csv"):
        with path.open() as file:
            table = list(csv.DictReader(file))
        write_csv(path, list(table[0]), [{**row, "validation_accuracy": None} for row in table])
    with pytest.raises(ValueError, match="n_validation"):
        choose.ranking([tmp_path / "copy"])
    plot.plot([tmp_path / "copy"], tmp_path / "page")  # shows test accuracy instead
    assert (tmp_path / "page" / "traces.svg").exists()


def test_curves_say_what_the_runs_say(outputs, tmp_path, capsys):
    assert plot_curves.main([str(outputs), "--out", str(tmp_path)]) == 0
    assert "<svg" in (tmp_path / "curves.svg").read_text()
    with (tmp_path / "curves.csv").open() as file:
        rows = {row["label"]: row for row in csv.DictReader(file)}
    sets = {group.label: group for group in analysis.groups(analysis.find_runs([outputs]))}
    assert rows.keys() == sets.keys()
    for label, group in sets.items():
        last = group.values("test_accuracy")
        assert float(rows[label]["test_accuracy_mean"]) == pytest.approx(last.mean())
        assert float(rows[label]["test_accuracy_max"]) == last.max()
        assert float(rows[label]["proposals_mean"]) == group.values("proposals").mean()
    assert rows["mcmc"]["seconds_to_60"] == ""
    assert "curves.csv" in capsys.readouterr().out


def test_traces_of_unequal_length_meet_on_a_common_grid():
    from types import SimpleNamespace

    import numpy as np

    times = (np.array([0.0, 1.0, 4.0]), np.array([0.0, 2.0, 3.0, 5.0]))
    group = SimpleNamespace(runs=[SimpleNamespace(metrics={"seconds": t, "loss": 10 - t}) for t in times])
    x, y = analysis.traces(group, "seconds", "loss", points=9)
    assert x.tolist() == np.linspace(0, 4, 9).tolist()
    assert y == pytest.approx(np.broadcast_to(10 - x, (2, 9)))


def test_nothing_to_draw(tmp_path, capsys):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "status.json").write_text('{"status": "failed"}')
    for command in (plot, choose, plot_curves):
        assert command.main([str(tmp_path), str(tmp_path / "none")]) == 1
        message = capsys.readouterr().err
        assert "status.json" in message
        assert "(failed)" in message
        assert "no such folder" in message
