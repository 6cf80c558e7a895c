from __future__ import annotations

import datetime
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from numpy.typing import NDArray

from mcmcopt.energy.errors import EnergyWarning
from mcmcopt.energy.foreign import alignment, wattmeter
from mcmcopt.energy.foreign.wattmeter import compare
from mcmcopt.energy.foreign.wattmeter_csv import read_csv
from mcmcopt.energy.log import Log, LogWriter, Segment
from mcmcopt.energy.offline import summarize
from mcmcopt.energy.sample import Channel, Sample

UNIX = 1.7e9
RANGE_UJ = 2_000_000_000  # wraps every 20 s at 100 W
PACKAGE = Channel("rapl:package-0", "cpu_package", "package-0", "counter", range_uj=RANGE_UJ, max_w=1000)
DRAM = Channel("rapl:package-0/dram", "dram", "dram", "counter", range_uj=RANGE_UJ, max_w=1000)
PSYS = Channel("rapl:psys", "psys", "psys", "counter", range_uj=RANGE_UJ, max_w=1000)
ABSENT = Channel("nvml:0", "gpu", "0", "absent", reason="no driver")
Curve = Callable[[NDArray[np.float64]], NDArray[np.float64]]


def load(rng: np.random.Generator, length_s: float) -> tuple[Curve, Curve]:
    """A load that jumps at random moments: its power, W, and its energy so far, J."""
    edges = np.concatenate([[-1e6], np.cumsum(rng.exponential(4.0, int(length_s))) - 20, [1e6]])
    watts = rng.uniform(20, 200, len(edges) - 1)
    so_far = np.concatenate([[0.0], np.cumsum(np.diff(edges) * watts)])

    def power(t: NDArray[np.float64]) -> NDArray[np.float64]:
        return watts[np.searchsorted(edges, t, side="right") - 1]

    def energy(t: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.interp(t, edges, so_far) - np.interp(0.0, edges, so_far)

    return power, energy


def make_log(rng: np.random.Generator, energy: Curve, length_s: float, period_s: float = 0.5) -> Log:
    """Three quarters of the load in the package, a quarter in memory, and psys that holds both and 50 W more."""
    ticks = np.arange(0.0, length_s, period_s)
    ticks[1:-1] += rng.uniform(-0.1, 0.1, len(ticks) - 2) * period_s
    samples = []
    for t, e in zip(ticks, energy(ticks), strict=True):
        parts = {PACKAGE.id: 0.75 * e, DRAM.id: 0.25 * e, PSYS.id: e + 50 * t}
        uj = {name: (round(1e6 * joules) + 1_999_000_000) % (RANGE_UJ + 1) for name, joules in parts.items()}
        samples.append(Sample(float(t) + 7.0, UNIX + float(t), uj=uj))
    return Log([Segment((PACKAGE, DRAM, PSYS, ABSENT), period_s, samples)])


def write(path: Path, head: str, t: NDArray[np.float64], w: NDArray[np.float64], separator: str = ",") -> Path:
    rows = [f"{a:.6f}{separator}{b:.4f}" for a, b in zip(t, w, strict=True)]
    path.write_text("\n".join([head, *rows]) + "\n")
    return path


@pytest.fixture(autouse=True)
def _warn_every_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mcmcopt.energy.errors._warned", set())


@pytest.mark.parametrize("seed", range(12))
def test_a_known_lag_and_ratio_are_recovered(tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    power, energy = load(rng, 200)
    log = make_log(rng, energy, 120)
    lag, ratio = rng.uniform(-40, 40), rng.uniform(1.1, 1.6)
    at = np.arange(-15.0, 105.0 if seed % 2 else 160.0, 0.05)  # the meter's time of the wattmeter's rows
    watts = ratio * power(at) + rng.normal(0, 4, len(at))
    if seed % 3:
        csv = write(tmp_path / "w.csv", "unix_s,power_W", UNIX + at + lag, watts)
        expected = lag
    else:
        csv = write(tmp_path / "w.csv", "time (ms);P (mW)", 1e3 * (at - at[0] + 5000), 1e3 * watts, ";")
        expected = 15.0  # each counts from its own first reading
    found = compare(log, csv)
    assert found.calendar == bool(seed % 3)
    assert abs(found.lag_s - expected) <= 0.3 * found.step_s  # a grid without a parabola errs by up to a half
    assert found.ratio is not None
    assert abs(found.ratio / ratio - 1) < 5e-3
    assert found.step_s == pytest.approx(0.5, rel=0.1)
    assert found.overlap_s == pytest.approx(min(119.5, at[-1]), abs=3)
    assert found.wattmeter_j / found.meter_j == pytest.approx(found.ratio)
    assert found.residual_w == pytest.approx((found.wattmeter_j - found.meter_j) / found.overlap_s, rel=1e-6)
    assert found.correlation is not None
    assert found.correlation > 0.95
    assert found.channels == (PACKAGE.id, DRAM.id)  # psys would make the ratio too small
    assert found.flags == ()


def test_a_lag_of_the_wrong_sign_would_be_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    power, energy = load(rng, 200)
    at = np.arange(-20.0, 120.0, 0.1)
    csv = write(tmp_path / "w.csv", "unix_s,watts", UNIX + at + 9, 1.3 * power(at))
    log = make_log(rng, energy, 120)
    assert abs(compare(log, csv).lag_s - 9) < 0.25
    right = alignment.best_shift
    monkeypatch.setattr(wattmeter, "best_shift", lambda *args: (-right(*args)[0], *right(*args)[1:]))
    assert abs(compare(log, csv).lag_s - 9) > 5


def test_half_of_the_curve_wins_over_a_whole_one_that_fits_by_chance(tmp_path: Path) -> None:
    for seed in (1, 2, 23):  # of 60 the one where r · √cells fails is 23
        rng = np.random.default_rng(seed)
        power, energy = load(rng, 600)
        log = make_log(rng, energy, 120)
        lag = rng.uniform(-40, 40)
        at = np.arange(60.0, 200.0, 0.05)
        csv = write(tmp_path / "w.csv", "unix_s,watts", UNIX + at + lag, 1.3 * power(at) + rng.normal(0, 4, len(at)))
        assert abs(compare(log, csv).lag_s - lag) < 0.25


def test_the_residual_is_what_the_sensors_do_not_see(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    power, energy = load(rng, 150)
    at = np.arange(0.0, 100.0, 0.1)
    csv = write(tmp_path / "w.csv", "t[s]\tpower [kW]", at, (power(at) + 35.0) / 1e3, "\t")
    found = compare(make_log(rng, energy, 100), csv)
    assert found.residual_w == pytest.approx(35, abs=1)
    assert found.residual_std_w < 15
    assert abs(found.lag_s) < 0.25


def test_gaps_of_either_side_are_left_out(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    power, energy = load(rng, 200)
    log = make_log(rng, energy, 120)
    kept = [s for s in log if not 40 < s.t_s - 7 < 60]
    asleep = [replace(s, t_s=s.t_s - 19.0) if s.t_s - 7 >= 60 else s for s in kept]  # the machine slept for 19 s
    slept = Log([replace(log.segments[0], samples=asleep)])
    at = np.concatenate([np.arange(0.0, 80.0, 0.1), np.arange(95.0, 120.0, 0.1)])
    csv = write(tmp_path / "w.csv", "unix_s,watts", UNIX + at + 3, 1.5 * power(at))
    found = compare(slept, csv)
    assert abs(found.lag_s - 3) < 0.25
    assert found.ratio == pytest.approx(1.5, rel=5e-3)
    assert found.overlap_s == pytest.approx(119.5 - 20 - 15, abs=2.5)


def test_two_segments_are_one_curve_with_a_hole_and_mirrors_are_counted_once(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    power, energy = load(rng, 200)
    first, second = (replace(PACKAGE, id=f"rapl:die-{d}", device=f"package-0-die-{d}") for d in (0, 1))

    def segment(start: float, end: float) -> Segment:
        ticks = np.arange(start, end, 0.5)
        uj = [round(1e6 * e) % (RANGE_UJ + 1) for e in energy(ticks) - energy(ticks[:1])]
        samples = [Sample(t - start, UNIX + t, uj={first.id: u, second.id: u}) for t, u in zip(ticks, uj, strict=True)]
        return Segment((first, second), 0.5, samples)

    log = Log([segment(0, 50), segment(80, 150)])
    at = np.arange(-5.0, 160.0, 0.1)
    found = compare(log, write(tmp_path / "w.csv", "unix_s,watts", UNIX + at - 12, 1.2 * power(at)))
    assert found.channels == (first.id,)
    assert abs(found.lag_s + 12) < 0.25
    assert found.ratio == pytest.approx(1.2, rel=5e-3)
    assert found.overlap_s == pytest.approx(119, abs=2)
    with pytest.raises(ValueError, match="overlap in time"):
        compare(Log([segment(0, 50), segment(40, 90)]), tmp_path / "w.csv")


def test_curves_that_do_not_resemble_are_flagged(tmp_path: Path) -> None:
    rng = np.random.default_rng(6)
    _, energy = load(rng, 200)
    log = make_log(rng, energy, 120)
    at = np.arange(0.0, 120.0, 0.1)
    csv = write(tmp_path / "noise.csv", "time_s,watts", at, 100 + rng.normal(0, 5, len(at)))
    with pytest.warns(EnergyWarning, match="do not resemble"):
        assert "lag_is_a_guess" in compare(log, csv).flags
    csv = write(tmp_path / "flat.csv", "unix_s,watts", UNIX + at + 1, np.full(len(at), 100.0))
    with pytest.warns(EnergyWarning, match="they do not change"):
        found = compare(log, csv)
    assert found.correlation is None
    assert found.lag_s == pytest.approx(0, abs=1e-6)  # nothing but the clocks is left


def test_a_load_that_repeats_itself_has_a_rival_lag(tmp_path: Path) -> None:
    period = 10.0
    fine = np.arange(-100.0, 300.0, 0.01)
    watts = 100 + 50 * (np.floor(fine / (period / 2)) % 2)
    so_far = np.cumsum(watts) * 0.01
    log = make_log(np.random.default_rng(7), lambda t: np.interp(t, fine, so_far), 100)
    at = np.arange(0.0, 100.0, 0.1)
    csv = write(tmp_path / "w.csv", "unix_s,watts", UNIX + at + 2, np.interp(at, fine, watts))
    assert compare(log, csv).flags == ()
    long = np.arange(-60.0, 160.0, 0.1)
    csv = write(tmp_path / "w.csv", "unix_s,watts", UNIX + long + 2, np.interp(long, fine, watts))
    assert compare(log, csv).flags == ("rival_lag",)
    assert (found := compare(log, csv, max_lag_s=period / 2)).flags == ()
    assert abs(found.lag_s - 2) < 0.25


def test_log_path_and_report_lead_to_the_same_log_and_the_picture_is_one(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    rng = np.random.default_rng(8)
    power, energy = load(rng, 60)
    log = make_log(rng, energy, 40)
    path = tmp_path / "energy.jsonl"
    writer = LogWriter(path)
    writer.header(log.segments[0].channels, 0.5, {})
    for sample in log:
        writer.sample(sample)
    writer.close()
    at = np.arange(0.0, 40.0, 0.1)
    csv = write(tmp_path / "w.csv", "time_s,watts", at, power(at))
    picture = tmp_path / "both.svg"
    found = compare(log, csv, plot=picture)
    assert ElementTree.parse(picture).getroot().tag.endswith("svg")  # noqa: S314 - written right above
    assert compare(path, csv) == compare(str(path), csv) == found
    report = summarize(log)
    assert compare(replace(report, meta={"log": str(path)}), csv) == found
    with pytest.raises(ValueError, match="names no log"):
        compare(replace(report, meta={}), csv)
    with pytest.raises(ValueError, match="a Report, a Log or a path, got list"):
        compare(list(log), csv)  # type: ignore[arg-type]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["both.svg", "energy.jsonl", "w.csv"]
    with pytest.raises(ValueError, match="no channel that is measured"):
        compare(Log([Segment((ABSENT,), 1.0, list(log))]), csv)


@pytest.mark.parametrize(
    ("head", "scale_t", "scale_w"),
    [
        ("time_s,power_W", 1, 1), ("time (ms),P (mW)", 1e-3, 1e-3), ("t[min],power [kW]", 60, 1e3),
        ("timestamp_us,watts", 1e-6, 1), ("unix_s,W", 1, 1), ("#timestamp_ns,active_power_mW", 1e-9, 1e-3),
        ("Elapsed time (h);p/kW", 3600, 1e3), ("Time (s)\tPower (W)", 1, 1), ("seconds,watts", 1, 1),
        ("watts,seconds", 1, 1), ("voltage_V,time_s,min,power_W", 1, 1),
    ],
)  # fmt: skip
def test_units_come_from_the_head(tmp_path: Path, head: str, scale_t: float, scale_w: float) -> None:
    separator = next(s for s in "\t;," if s in head)
    names = head.split(separator)
    rows = [["9"] * len(names) for _ in range(3)]
    for i, row in enumerate(rows):
        row[-1], row[-2 if len(names) == 2 else 1] = (str(i), "2.5") if names[0] == "watts" else ("2.5", str(i))
    path = tmp_path / "w.csv"
    path.write_text("\ufeff" + "\r\n".join([head, *(separator.join(row) for row in rows)]), encoding="utf-8")
    times, watts = read_csv(path)
    np.testing.assert_allclose(times, [0, scale_t, 2 * scale_t])
    np.testing.assert_allclose(watts, [2.5 * scale_w] * 3)


def test_dates_decimal_commas_and_a_torn_last_line(tmp_path: Path) -> None:
    path = tmp_path / "w.csv"
    path.write_text("datetime;power_W\n2024-05-01T12:00:00+02:00;1,5\n2024-05-01T10:00:01.5Z;2,5\n2024-05-0")
    utc = datetime.datetime(2024, 5, 1, 10, tzinfo=datetime.UTC).timestamp()
    assert read_csv(path) == ([utc, utc + 1.5], [1.5, 2.5])
    path.write_text("Date;power_W\n2024-05-01 12:00:00;1\n2024-05-01 12:00:02;2\n")
    local = datetime.datetime(2024, 5, 1, 12).timestamp()
    assert read_csv(path)[0] == [local, local + 2]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "the file is empty"),
        ("a,b\n1,2\n", "line 1: time: no such column in 'a', 'b'"),
        ("time_s,current_A\n1,2\n", "line 1: power: no such column"),
        ("timestamp_fortnights,watts\n1,2\n", "unknown unit"),
        ("time_s,power\n1,2\n", "'power' does not name its unit"),
        ("unix,watts\n1,2\n", "'unix' does not name its unit"),
        ("time,watts\n1,2\n2,2\n", "line 2, column 'time': must be an ISO date"),
        ("time_s,unix_s,watts\n1,1,2\n", "found 'time_s', 'unix_s'"),
        ("time_s,watts\n1,2\n2,high\n3,4\n", "line 3, column 'watts': must be a finite number, got 'high'"),
        ("time_s,watts\n1,2\n2,nan\n", "line 3, column 'watts'"),
        ("time_s,watts\n1,2\n3,2\n2,2\n", "line 4, column 'time_s': time goes back"),
        ("time_s,watts\n1,2\n2\n", "line 3: 1 columns, the head has 2"),
        ("time_s,watts\n1,2\n", "at least two rows"),
    ],
)
def test_bad_input_is_named(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "w.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=says):
        read_csv(path)


def test_too_little_in_common_is_refused(tmp_path: Path) -> None:
    rng = np.random.default_rng(9)
    power, energy = load(rng, 60)
    log = make_log(rng, energy, 40)
    short = np.arange(0.0, 2.0, 0.1)
    with pytest.raises(ValueError, match=r"w\.csv must cover at least 8 steps"):
        compare(log, write(tmp_path / "w.csv", "time_s,watts", short, power(short)))
    at = np.arange(0.0, 40.0, 0.1)
    csv = write(tmp_path / "w.csv", "unix_s,watts", UNIX + at + 3600, power(at))
    assert abs(compare(log, csv).lag_s - 3600) < 0.25
    with pytest.raises(ValueError, match="too little time in common"):
        compare(log, csv, max_lag_s=60)
    with pytest.raises(ValueError, match="max_lag_s must be 0 or more"):
        compare(log, csv, max_lag_s=math.nan)
