from __future__ import annotations

import csv
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from mcmcopt.energy.outputs import export
from mcmcopt.energy.report import Report
from tests.energy.outputs.test_text import DRAM, FULL, NO_GPU, PACKAGE, make

NASTY = 'a"b\\c\nd,é'
SAMPLE = re.compile(r'([a-z_]+)(?:\{((?:[a-z_]+="(?:[^"\\\n]|\\["\\n])*",?)+)\})? (-?[0-9.e+-]+)')


def scrape(text: str) -> tuple[dict[str, dict[str, float]], list[str]]:
    """What Prometheus would read: samples by metric and labels, and the comments."""
    assert text.endswith("\n")
    samples: dict[str, dict[str, float]] = {}
    comments = []
    for line in text[:-1].split("\n"):
        if line.startswith("#"):
            comments.append(line)
            continue
        match = SAMPLE.fullmatch(line)
        assert match, line
        assert match[2] not in samples.setdefault(match[1], {}), line
        samples[match[1]][match[2] or ""] = float(match[3])
    return samples, comments


def test_prometheus_has_every_value_once_and_no_zero_for_what_is_absent() -> None:
    samples, comments = scrape(FULL.to_prometheus())
    by_channel = samples["mcmcopt_energy_joules"]
    assert sum(by_channel.values()) == 5000 + 1234.5 + 9000 + 4000
    assert sum(v for k, v in by_channel.items() if 'counted="true"' in k and "estimated" not in k) == 6234.5
    assert 'channel="rapl:package-0",kind="cpu_package",provenance="counter",counted="true"' in by_channel
    assert samples["mcmcopt_energy_total_joules"] == {'provenance="measured"': 6234.5, 'provenance="estimated"': 4000}
    assert samples["mcmcopt_energy_duration_seconds"] == {"": 100.0}
    assert samples["mcmcopt_energy_process_joules"] == {'provenance="estimated"': 2500.0}
    assert "nvml:0" not in FULL.to_prometheus()
    assert len(comments) == len(set(comments)) == 2 * len(samples)
    for name in samples:
        assert f"# TYPE {name} gauge" in comments
        assert any(c.startswith(f"# HELP {name} ") for c in comments)
    for line, after in zip(FULL.to_prometheus().split("\n"), FULL.to_prometheus().split("\n")[1:], strict=False):
        if line.startswith("# TYPE"):
            assert after.startswith(line.split()[2])


def test_prometheus_without_sensors_says_only_how_long() -> None:
    samples, _ = scrape(make({"nvml:0": NO_GPU}).to_prometheus())
    assert set(samples) == {"mcmcopt_energy_duration_seconds"}


def test_labels_are_escaped() -> None:
    samples, _ = scrape(make({NASTY: PACKAGE}).to_prometheus())
    (label,) = samples["mcmcopt_energy_joules"]
    escaped = re.match(r'channel="((?:[^"\\]|\\.)*)"', label)
    assert escaped
    assert re.sub(r"\\(.)", lambda m: {"n": "\n"}.get(m[1], m[1]), escaped[1]) == NASTY


def test_csv_reads_back(tmp_path: Path) -> None:
    report = replace(FULL, channels={NASTY: DRAM, **FULL.channels})
    path = tmp_path / "energy.csv"
    path.write_text("old")
    with path.open() as reader:
        report.to_csv(path)
        assert reader.read() == "old"  # another file took its place
    with path.open(newline="", encoding="utf-8") as file:
        rows = {row["id"]: row for row in csv.DictReader(file)}
    assert list(rows)[: len(report.channels)] == list(report.channels)
    for name, reading in report.channels.items():
        assert rows[name]["energy_j"] == ("" if reading.energy_j is None else str(reading.energy_j))
        assert tuple(rows[name]["flags"].split()) == reading.flags
        assert rows[name]["reason"] == reading.reason
    totals = {name: row["energy_j"] for name, row in rows.items() if name.startswith("total:")}
    assert totals == {
        "total:cpu": "", "total:dram": "", "total:gpu": "", "total:measured": "6234.5", "total:estimated": "4000.0",
        "total:net": "4234.5", "total:process": "2500.0",
    }  # fmt: skip
    assert rows["total:process"]["provenance"] == "estimated"
    assert [p.name for p in tmp_path.iterdir()] == ["energy.csv"]


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "energy.csv"
    path.write_text("old")

    def fail(report: Report) -> list[dict[str, object]]:
        raise RuntimeError("in the middle")

    monkeypatch.setattr(export, "_rows", fail)
    with pytest.raises(RuntimeError, match="in the middle"):
        FULL.to_csv(path)
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["energy.csv"]
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        FULL.to_csv(tmp_path / "nowhere" / "energy.csv")


def test_the_figure_has_a_bar_per_known_channel_without_pyplot(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    ax = FULL.plot()
    bars = {tick.get_text(): bar for tick, bar in zip(ax.get_yticklabels(), ax.patches, strict=True)}
    assert {name: bar.get_width() for name, bar in bars.items()} == {
        "rapl:package-0": 5000, "rapl:dram": 1234.5, "rapl:psys": 9000, "model:cpu": 4000,
    }  # fmt: skip
    assert {name for name, bar in bars.items() if bar.get_hatch()} == {"model:cpu"}
    assert {name for name, bar in bars.items() if bar.get_alpha() < 1} == {"rapl:psys"}
    assert ax.get_xlabel() == "energy (J)"
    assert FULL.plot(ax) is ax
    make({"nvml:0": NO_GPU}).plot().figure.savefig(tmp_path / "empty.svg")  # type: ignore[union-attr]


def test_matplotlib_is_loaded_late_and_its_absence_has_a_remedy() -> None:
    code = (
        "import sys\n"
        "from mcmcopt.energy.report import Report\n"
        "from mcmcopt.energy import carbon, compare, from_aipowermeter\n"
        "from mcmcopt.energy.outputs import export\n"
        "r = Report('x', 1.0, {}, None, None, None, None, None, 0.0)\n"
        "str(r), r.to_prometheus(), r.to_json()\n"
        "assert not {'matplotlib', 'numpy', 'torch'} & set(sys.modules), 'loaded early'\n"
        "sys.modules['matplotlib'] = None\n"
        "try: r.plot()\n"
        "except ImportError as e: assert 'pip install matplotlib' in str(e), e\n"
        "else: raise AssertionError\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)


def test_pyplot_stays_unloaded() -> None:
    pytest.importorskip("matplotlib")
    code = (
        "import sys\n"
        "from mcmcopt.energy.report import Report\n"
        "Report('x', 1.0, {}, None, None, None, None, None, 0.0).plot()\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)


def test_a_report_still_goes_through_json() -> None:
    assert Report.from_dict(FULL.to_dict()) == FULL
