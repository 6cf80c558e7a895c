"""The page against summary.csv, the ranking, and what they say when there is nothing."""

import csv
import itertools
import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.figure import Figure

from experiments import analysis, choose, plot, plot_curves, tables
from experiments.differences import COMPARED, paired_differences
from experiments.figures import layers
from experiments.figures.resistance import controls as draw_controls
from experiments.figures.resistance import resistance as draw_resistance
from experiments.figures.style import legend, look, mean_and_seeds, style
from experiments.figures.training import costs
from experiments.job import run
from experiments.record import write_csv
from experiments.tables import FINETUNED, PRUNED, TRAINING

from .conftest import SHORT, composed
from .parsed import Page

FIGURES = {"resistance", "controls", "finetuned", "density", "cost", "traces", "layers", "acceptance-1"}
SHARES = np.array([0, *(i / 10 for i in range(1, 10)), *(i / 100 for i in range(91, 100))])


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    out = tmp_path_factory.mktemp("outputs")
    for optimizer in ("mcmc", "sgd", "sgd_pruned"):
        for seed in (0, 1):
            run(composed(f"optimizer={optimizer}", f"out={out}", f"seed={seed}", *SHORT[optimizer]))
    run(composed("optimizer=sgd", f"out={out}", *SHORT["sgd"], "optimizer.lr=0.001"))
    return out


def read(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def resistance(out, name, *, scope="layer", basis="all", criterion="magnitude", what="test_accuracy"):
    """Return curves by seed, read without the code under test."""
    found = {}
    for folder in sorted((out / "digits" / name).iterdir()):
        rows = [r for r in read(folder / "resistance.csv") if (r["criterion"], r["scope"]) == (criterion, scope)]
        rows = [r for r in rows if r["basis"] == basis]
        found[int(folder.name.split("-")[1])] = np.array([float(r[what]) for r in rows])
    return found


@pytest.fixture(scope="module")
def drawn(outputs, tmp_path_factory):
    return plot.plot([outputs], tmp_path_factory.mktemp("page"), only=["mcmc", "sgd_pruned", "sgd"])


def test_page_says_what_summary_csv_says(outputs, drawn):
    text = drawn.read_text(encoding="utf-8")
    parsed = Page(text)
    rows = {row["label"]: row for row in read(drawn.parent / "summary.csv")}
    for name, columns in (("summary", TRAINING), ("pruning", PRUNED), ("after-finetuning", FINETUNED)):
        heads, *table = parsed.tables[name]
        assert [cells[0] for cells in table] == list(rows)  # two settings of sgd
        for cells in table:
            row, cell = rows[cells[0]], dict(zip(heads, cells, strict=True))
            assert cell["seeds"] == row["n_seeds"]
            assert name != "summary" or cell["energy of training, J"] == row["joules"]
            for column in columns:
                mean, sd = row[f"{column.measure}_mean"], row[f"{column.measure}_sd"]
                text_mean = f"{column.factor * float(mean):,.{column.decimals}f}"
                text_sd = f" ± {column.factor * float(sd):,.{column.decimals}f}" if sd else ""
                assert cell[column.heading] == text_mean + text_sd
    assert [row["name"] for row in rows.values()] == ["mcmc", "sgd_pruned", "sgd", "sgd"]
    assert [row["n_seeds"] for row in rows.values() if row["name"] != "sgd"] == ["2", "2"]
    assert {row[0] for row in parsed.tables["runs"][1:]} == set(rows)
    folders = {"/".join(path.parts[-3:]) for path in (outputs / "digits").glob("*/*")}
    assert {row[2] for row in parsed.tables["runs"][1:]} == folders


def test_page_stands_alone(outputs, drawn):
    text = drawn.read_text(encoding="utf-8")
    parsed = Page(text)
    assert "script" not in parsed.tags
    assert "://" not in text
    assert all(address.startswith("#") for address in parsed.addresses)
    assert len(parsed.ids) == len(set(parsed.ids))
    assert all(address[1:] in parsed.ids for address in parsed.addresses)
    assert parsed.tags.count("figcaption") == parsed.tags.count("figure") == len(FIGURES)
    assert {path.stem for path in drawn.parent.glob("*.svg")} == FIGURES
    for path in drawn.parent.glob("*.svg"):
        root = ElementTree.parse(path).getroot()  # noqa: S314 -- our own
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        ids = [element.get("id") for element in root.iter() if element.get("id")]
        assert len(ids) == len(set(ids))
    assert str(outputs) not in text


def test_summary_csv_says_what_the_runs_say(outputs, drawn):
    rows = {row["label"]: row for row in read(drawn.parent / "summary.csv")}
    for name in ("mcmc", "sgd_pruned"):
        at_90 = np.array([curve[9] for curve in resistance(outputs, name).values()])
        assert float(rows[name]["test_accuracy_at_90_mean"]) == pytest.approx(at_90.mean())
        assert float(rows[name]["test_accuracy_at_90_sd"]) == pytest.approx(abs(at_90[0] - at_90[1]) / 2**0.5)
        half = np.mean([curve[5] for curve in resistance(outputs, name, basis="remaining").values()])
        assert float(rows[name]["test_accuracy_at_50_remaining_mean"]) == pytest.approx(half)
        tuned = [read(f / "resistance.csv") for f in (outputs / "digits" / name).iterdir()]
        tuned = [float(r["test_accuracy_finetuned"]) for t in tuned for r in t if r["requested"] == "0.95" and
                 r["test_accuracy_finetuned"] and r["basis"] == "all"]  # fmt: skip
        assert len(tuned) == 2
        assert float(rows[name]["test_accuracy_finetuned_at_95_mean"]) == pytest.approx(np.mean(tuned))


@pytest.mark.parametrize(
    ("figure", "criterion", "scope"),
    [("resistance", "magnitude", "layer"), ("controls", "random", "layer"), ("controls", "magnitude", "global")],
)
@pytest.mark.parametrize("basis", ["all", "remaining"])
def test_lines_of_the_svg_are_means_of_the_runs(outputs, drawn, figure, criterion, scope, basis):
    root = ElementTree.parse(drawn.parent / f"{figure}.svg").getroot()  # noqa: S314
    by_id = {element.get("id"): element for element in root.iter()}
    drawn_at, means = [], []
    for i, name in enumerate(("mcmc", "sgd_pruned")):
        line = by_id[f"{figure}-{criterion}-{scope}-{basis}-{i}"]
        path = next(element for element in line.iter() if element.tag.endswith("}path")).get("d")
        x, y = np.array([list(map(float, pair)) for pair in re.findall(r"([\d.]+) ([\d.]+)", path)]).T
        curves = resistance(outputs, name, criterion=criterion, scope=scope, basis=basis)
        assert curves.keys() == {0, 1}
        # log-sparsity goes from 0 to 2 along the path, which may leave out points on a straight line
        mean = np.interp(2 * (x - x[0]) / (x[-1] - x[0]), -np.log10(1 - SHARES), np.mean(list(curves.values()), 0))
        drawn_at, means = [*drawn_at, *y], [*means, *mean]
    assert len(means) > 12
    slope, at = np.polyfit(means, drawn_at, 1)
    assert slope < 0
    assert drawn_at == pytest.approx(slope * np.array(means) + at, abs=0.15)  # of some 240 points of the panel's height


def test_panels_are_called_what_they_show(outputs):
    found = {}
    sets = analysis.groups(analysis.find_runs([outputs]))
    for picture in (draw_resistance(sets), draw_controls(sets)):
        for ax in picture.figure.axes:
            (gid,) = {line.get_gid() for line in ax.lines if str(line.get_gid()).endswith("-0")}
            found[gid] = (ax.get_title(), ax.get_xlabel())
    each, over = "share pruned in each layer, %", "share pruned over all layers, %"
    assert found == {
        "magnitude-layer-all-0": ("magnitude by layer: all weights", each),
        "magnitude-layer-remaining-0": ("magnitude by layer: remaining weights", each),
        "random-layer-all-0": ("random by layer (control): all weights", each),
        "random-layer-remaining-0": ("random by layer (control): remaining weights", each),
        "magnitude-global-all-0": ("global magnitude: all weights", over),
        "magnitude-global-remaining-0": ("global magnitude: remaining weights", over),
    }


def test_differences_pair_the_seeds(outputs, drawn):
    rows = read(drawn.parent / "differences.csv")
    parsed = Page(drawn.read_text(encoding="utf-8"))
    sets = {group.label: group for group in analysis.groups(analysis.find_runs([outputs, outputs / "digits"]))}
    label = next(label for label in sets if label.startswith("sgd ") and len(sets[label].runs) == 2)
    assert {row["measure"] for row in rows} == set(COMPARED)
    assert {(row["label"], row["baseline"]) for row in rows} == {("mcmc", label), ("sgd_pruned", label)}
    for column in tables.COMPARED:
        row = next(r for r in rows if (r["label"], r["measure"]) == ("mcmc", column.measure))
        one, two = (sets["mcmc"].values(column.measure) - sets[label].values(column.measure)).tolist()
        assert row["n"] == "2"
        assert float(row["mean"]) == pytest.approx((one + two) / 2)
        half = 12.7062 * abs(one - two) / 2  # t at 1 degree of freedom
        assert float(row["half_width"]) == pytest.approx(half, rel=1e-4)
        heads, *table = parsed.tables["differences"]
        cell = next(dict(zip(heads, cells, strict=True)) for cells in table if cells[0] == f"mcmc − {label}")
        shown = [
            float(part) / column.factor for part in re.findall(r"[+-][\d.]+", cell[column.heading].replace("−", "-"))
        ]
        bounds = [float(row["mean"]), float(row["mean"]) - half, float(row["mean"]) + half]
        assert shown == pytest.approx(bounds, abs=0.51 * 10**-column.decimals / column.factor)


def made(name, seeds, data="digits", model="experiments.models.mlp", **summary):
    """Return a group of runs that are not on disk: `summary` has one value per seed."""
    runs = []
    for i, seed in enumerate(seeds):
        config = {"name": name, "seed": seed, "data": {"name": data, "root": f"/{seed}"}, "model": {"_target_": model}}
        run = analysis.Run(Path("nowhere"))
        numbers = {key: values[i] for key, values in summary.items()}
        run.__dict__.update(config=config, summary={"weights": 10, "acceptance": {}, "joules": None, **numbers})
        runs.append(run)
    return analysis.Group(name, tuple(runs))


def test_differences_are_within_seeds_not_between_means():
    sgd = made("sgd", [0, 1, 2, 5], area_all=[0.1, 0.5, 0.9, 0.0])
    mcmc = made("mcmc", [2, 1, 0, 7], area_all=[0.91, 0.52, 0.13, 1.0])  # in another order
    (found,) = paired_differences([mcmc, sgd])
    assert (found.label, found.baseline, found.measure, found.n) == ("mcmc", "sgd", "area_all", 3)
    assert found.mean == pytest.approx(0.02)
    assert found.half_width == pytest.approx(4.302653 * 0.01 / 3**0.5)
    (back,) = paired_differences([mcmc, sgd], ["mcmc"])
    assert (back.label, back.mean) == ("sgd", pytest.approx(-0.02))


def test_differences_need_the_same_task_and_values_on_both_sides():
    sgd = made("sgd", [0, 1, 2], area_all=[0.1, 0.2, None])
    for change in ({"data": "mnist"}, {"model": "experiments.models.lenet300"}):
        assert not paired_differences([made("mcmc", [0, 1, 2], **change, area_all=[0.5, 0.6, 0.7]), sgd])
    (found,) = paired_differences([made("mcmc", [0, 1, 2], area_all=[0.5, 0.6, 0.9]), sgd])
    assert (found.n, found.mean) == (2, pytest.approx(0.4))
    assert not paired_differences([made("mcmc", [0, 1, 2], area_all=[None, 0.6, 0.9]), sgd])


def test_what_is_null_does_not_count():
    group = made(
        "mcmc",
        [0, 1, 2],
        test_accuracy=[0.8, 0.9, 1.0],
        test_accuracy_finetuned_at_90=[None, 0.5, 0.7],
        test_accuracy_finetuned_at_95=[None, None, 0.6],
        test_accuracy_finetuned_at_98=[None, None, None],
    )
    (row,) = analysis.summary_rows([group])
    for percent, expected in ((90, (0.6, 0.02**0.5, 2)), (95, (0.6, None, 1)), (98, (None, None, 0))):
        found = tuple(row[f"test_accuracy_finetuned_at_{percent}_{what}"] for what in ("mean", "sd", "n"))
        assert found == (expected if None in expected else pytest.approx(expected))
    assert tables.cells(row, FINETUNED)[2:] == ["60.00 ± 14.14 (n = 2)", "60.00 (n = 1)", "–"]
    assert tables.cells(row, TRAINING)[2] == "90.00 ± 10.00"


def test_a_curve_is_of_one_criterion_scope_and_basis():
    kinds = [("magnitude", "layer"), ("magnitude", "global"), ("magnitude", "block"), ("random", "layer")]
    rows = [
        {"criterion": c, "scope": s, "basis": b, "requested": r, "test_accuracy": str(n), "test_accuracy_finetuned": ""}
        for n, ((c, s), b) in enumerate(itertools.product(kinds, ("all", "remaining")))
        for r in ("0.0", "0.9")
    ]
    rows[1]["test_accuracy_finetuned"] = "0.4"
    run = analysis.Run(Path("nowhere"))
    run.__dict__["resistance"] = rows
    for n, (kind, basis) in enumerate(itertools.product(kinds, ("all", "remaining"))):
        shares, accuracy = run.curve(*kind, basis)
        assert (shares.tolist(), accuracy.tolist()) == ([0.0, 0.9], [n, n])
    assert run.prunings == kinds
    shares, accuracy = run.curve("magnitude", "layer", "all", "test_accuracy_finetuned")
    assert (shares.tolist(), accuracy.tolist()) == ([0.9], [0.4])  # an empty cell is no 0


def test_band_is_the_t_interval_of_the_mean_and_one_seed_has_none():
    ax = Figure().subplots()
    values = np.array([[0.5, 0.99], [0.6, 0.5], [0.7, 0.6]])
    mean_and_seeds(ax, 0, np.array([0.0, 1.0]), values, "mcmc (n = 3)", "line")
    (band,) = ax.collections
    at_0 = sorted({y for x, y in band.get_paths()[0].vertices if x == 0})
    assert at_0 == pytest.approx([0.6 - 4.302653 * 0.1 / 3**0.5, 0.6 + 4.302653 * 0.1 / 3**0.5])
    assert max(y for x, y in band.get_paths()[0].vertices if x == 1) == 1  # no accuracy is above
    assert [line.get_ydata().tolist() for line in ax.lines[:3]] == values.tolist()
    assert ax.lines[3].get_ydata() == pytest.approx(values.mean(0))
    assert ax.get_legend_handles_labels()[1] == ["mcmc (n = 3)"]
    alone = Figure().subplots()
    mean_and_seeds(alone, 0, np.array([0.0, 1.0]), values[:1], "mcmc (n = 1)", "line")
    assert (len(alone.lines), len(alone.collections)) == (1, 0)


def test_ten_lines_are_told_apart_without_colour():
    looks = [look(i, 19) for i in range(10)]
    for what in ("color", "linestyle", "marker"):
        assert len({str(one[what]) for one in looks}) == 10


@pytest.mark.parametrize("n", [1, 4, 10])
def test_legend_covers_no_panel(n):
    with style():
        figure = Figure(figsize=(6.6, 4.6))
        ax = figure.subplots()
        for i in range(n):
            ax.plot([0, 1], [i, i], label=f"a_method_of_a_longer_name_{i} (n = 3)")
        ax.set_title("a title")
        legend(figure, ax)
        figure.draw_without_rendering()
        panel, box = ax.get_tightbbox(), figure.legends[0].get_window_extent()
    assert box.y0 >= panel.y1
    assert box.x0 >= 0
    assert max(box.x1, panel.x1) <= figure.bbox.x1 + 1
    assert ax.get_window_extent().height > 0.6 * 4.6 * figure.dpi


def test_sections_are_by_data_and_model():
    runs = [*made("mcmc", [0, 1]).runs, *made("sgd", [0], data="mnist").runs, *made("mcmc", [0], data="mnist").runs]
    assert [section.key for section in analysis.sections(runs[:2])] == [""]
    both = analysis.sections(runs)
    assert [(s.title, s.key, [g.label for g in s.groups]) for s in both] == [
        ("digits", "digits", ["mcmc"]), ("mnist", "mnist", ["mcmc", "sgd"])
    ]  # fmt: skip
    ordered = analysis.sections(runs, only=["sgd", "mcmc"])
    assert [[g.label for g in s.groups] for s in ordered] == [["mcmc"], ["sgd", "mcmc"]]
    assert [s.title for s in analysis.sections(runs, only=["sgd"])] == ["mnist"]
    with pytest.raises(ValueError, match=r"--only: no runs are called 'adam'; there are mcmc, sgd"):
        analysis.sections(runs, only=["adam"])
    runs += made("mcmc", [0], model="experiments.models.lenet300").runs
    assert [s.key for s in analysis.sections(runs)] == ["digits-lenet300", "digits-mlp", "mnist"]


def test_sections_share_a_page_but_no_figure(outputs, tmp_path):
    shutil.copytree(outputs / "digits" / "sgd_pruned", tmp_path / "runs" / "other")
    for path in (tmp_path / "runs").rglob("config.yaml"):
        path.write_text(path.read_text().replace("  name: digits\n", "  name: other\n"))
    index = plot.plot([outputs, tmp_path / "runs"], tmp_path / "page", ["sgd_pruned"], ["sgd_pruned"], pdf=True)
    parsed = Page(index.read_text(encoding="utf-8"))
    assert len(parsed.ids) == len(set(parsed.ids))
    assert {"digits-summary", "other-summary", "digits", "other"} <= set(parsed.ids)
    assert not {"digits-differences", "other-differences"} & set(parsed.ids)
    for name in ("resistance", "layers"):
        assert "<svg" in (tmp_path / "page" / f"other-{name}.svg").read_text()
        assert (tmp_path / "page" / f"digits-{name}.pdf").read_bytes().startswith(b"%PDF")
    assert [row["data"] for row in read(tmp_path / "page" / "summary.csv")] == ["digits", "other"]
    assert plot.main([str(outputs), "--out", str(tmp_path / "none"), "--baseline", "adam"]) == 1
    assert not (tmp_path / "none").exists()


def test_costs_are_joules_only_where_all_runs_measured_them():
    def run(joules, estimated=None, assumption=None):
        rows = {"joules": [0.0, joules], "joules_estimated": [0.0, estimated]}
        metrics = {key: np.array(values, dtype=float) for key, values in rows.items()}
        return SimpleNamespace(metrics=metrics, summary={"energy": {"assumption": assumption}})

    def of(*runs):
        return costs([SimpleNamespace(runs=runs)])

    assert of(run(1.0), run(2.0)) == ("joules", "samples", "seconds")
    assert of(run(1.0), run(None)) == ("evaluations", "samples", "seconds")
    assert of(run(1.0, 2.0, "7.5 W"), run(None, 3.0, "7.5 W"))[-1] == "joules_estimated"
    assert of(run(None, 2.0, "7.5 W"), run(None, 3.0, "75 W"))[-1] == "seconds"


def test_acceptance_pools_the_seeds_and_layers_are_those_that_can_be_sparse():
    def row(step, layer, move, proposed, accepted, active=2):
        return {"step": str(step), "layer": layer, "move": move, "proposed": str(proposed), "accepted": str(accepted),
                "active": str(active), "size": "4"}  # fmt: skip

    def run(*rows):
        return SimpleNamespace(layers=rows, summary={"steps": 8, "acceptance": {"a": 1}})

    one = run(row(2, "a", "walk", 10, 5), row(4, "a", "walk", 10, 0, 1), row(2, "a.bias", "walk", 1, 1))
    two = run(row(2, "a", "walk", 30, 30), row(2, "a", "birth", 1, 1))
    chain = analysis.Group("mcmc", (one, two))
    step, rate = layers.accepted(chain, "a", "walk")
    assert (step.tolist(), rate.tolist()) == ([2, 4], [35 / 40, 0])
    x, y = layers.active(one, "a")
    assert (x.tolist(), y.tolist()) == ([25, 50], [0.5, 0.25])
    assert layers.weight_layers([chain]) == ["a"]
    many = run(*(row(step, "a", "walk", 1, step % 2) for step in range(100)))
    step, rate = layers.accepted(analysis.Group("mcmc", (many,)), "a", "walk")
    assert len(step) == 20
    assert rate[1:-1] == pytest.approx(0.5, abs=0.11)


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


def test_choose_ranks_by_validation_and_never_opens_test_results(outputs, tmp_path, capsys):
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
    half = choose.ranking([copy], at=0.5, remaining=True)
    for rows, at, basis in ((pruned, 9, "all"), (half, 5, "remaining")):
        row = next(row for row in rows if row["name"] == "sgd_pruned")
        curves = resistance(copy, "sgd_pruned", basis=basis, what="validation_accuracy")
        assert row["validation_accuracy"] == pytest.approx(np.mean([curve[at] for curve in curves.values()]))
    assert choose.main([str(copy), "--at", "0.5", "--remaining"]) == 0
    assert "50% of each layer's remaining" in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"--at 0\.123"):
        choose.ranking([copy], at=0.123)


def test_choosing_needs_validation_data(outputs, tmp_path):
    shutil.copytree(outputs, tmp_path / "copy")
    for path in (tmp_path / "copy").rglob("metrics.csv"):
        with path.open() as file:
            table = list(csv.DictReader(file))
        write_csv(path, list(table[0]), [{**row, "validation_accuracy": None} for row in table])
    with pytest.raises(ValueError, match="n_validation"):
        choose.ranking([tmp_path / "copy"])
    plot.plot([tmp_path / "copy"], tmp_path / "page", ["sgd_pruned"])  # shows test accuracy instead
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
    times = (np.array([0.0, 1.0, 4.0]), np.array([0.0, 2.0, 3.0, 5.0]))
    x, y = analysis.aligned([(t, 10 - t) for t in times], points=9)
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
