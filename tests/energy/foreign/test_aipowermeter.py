from __future__ import annotations

import datetime
import json
import random
from pathlib import Path
from typing import Any

import pytest

from mcmcopt.energy.foreign.aipowermeter import END, from_aipowermeter
from mcmcopt.energy.offline import summarize

START = datetime.datetime(2023, 6, 30, 16, 32, 14, 588530)


def line(after_s: float, cpu: dict[str, Any] | None = None, gpu: dict[str, Any] | None = None) -> str:
    metrics = {name: part for name, part in (("cpu", cpu), ("gpu", gpu)) if part is not None}
    return json.dumps({"date": str(START + datetime.timedelta(seconds=after_s)), "metrics": metrics})


def laptop(package: float, psys: float = -1) -> dict[str, Any]:
    """The keys of `examples/example_data/train`, with `uncore_power` a tuple of one by a stray comma."""
    return {
        "per_process_mem_use_abs": {"85961": 434121728, "85992": 175577088},
        "per_process_cpu_uses": {"85961": 0.857},
        "intel_power": package,
        "psys_power": psys,
        "uncore_power": [0.015],
        "per_process_cpu_power": {"85961": 36.2},
        "total_cpu_power": 0.9 * package,
        "total_dram_power": 2.0,
    }


def save(tmp_path: Path, *lines: str, end: str = "\n") -> Path:
    path = tmp_path / "power_metrics.json"
    path.write_text("\n".join(lines) + end)
    return path


def test_joules_are_the_trapezoid_of_each_segment(tmp_path: Path) -> None:
    rng = random.Random(0)
    for _ in range(20):
        lines, expected, seconds, t = [], 0.0, 0.0, 0.0
        for _ in range(rng.randrange(1, 4)):
            before: tuple[float, float] | None = None
            for _ in range(rng.randrange(2, 40)):
                w = rng.uniform(5, 90)
                lines.append(line(t, laptop(w)))
                if before is not None:
                    expected += (before[1] + w) / 2 * (t - before[0])
                    seconds += t - before[0]
                before = t, w
                t += 2 + rng.uniform(-0.1, 0.1)
            lines.append(json.dumps(END))
            t += 3600.0  # until it was started again
        report = summarize(from_aipowermeter(save(tmp_path, *lines)))
        assert report.cpu_j == pytest.approx(expected, rel=1e-6)
        assert report.duration_s == pytest.approx(seconds, abs=1e-3)
        assert report.dram_j == pytest.approx(2 * seconds, rel=1e-6)
        assert report.total_measured_j == pytest.approx(expected + 2 * seconds, rel=1e-6)  # neither core nor uncore
        assert report.coverage == pytest.approx(1)
        assert report.channels["aipm:core"].energy_j == pytest.approx(0.9 * expected, rel=1e-6)


def test_psys_of_minus_one_is_absent_and_no_joule_is_negative(tmp_path: Path) -> None:
    report = summarize(from_aipowermeter(save(tmp_path, *(line(2 * i, laptop(30)) for i in range(5)))))
    psys = report.channels["aipm:psys"]
    assert (psys.provenance, psys.energy_j) == ("absent", None)
    assert psys.reason
    there = [r for r in report.channels.values() if r.provenance != "absent"]
    assert {r.provenance for r in there} == {"integrated"}
    assert all(r.energy_j is not None and r.energy_j >= 0 for r in there)
    assert report.channels["aipm:uncore"].energy_j == pytest.approx(0.015 * 8)
    with_psys = summarize(from_aipowermeter(save(tmp_path, *(line(2 * i, laptop(30, 45)) for i in range(5)))))
    assert with_psys.channels["aipm:psys"].energy_j == pytest.approx(45 * 8)
    assert with_psys.total_measured_j == report.total_measured_j


@pytest.mark.parametrize(
    ("each", "all_of_them"),
    [("per_gpu_nvidia_power", "nvidia_power"), ("per_gpu_power_draw", "nvidia_draw_absolute")],
)
def test_gpus_of_both_generations_are_summed_once(tmp_path: Path, each: str, all_of_them: str) -> None:
    gpu: dict[str, Any] = {all_of_them: 88.0, each: {"0": 19.0, "1": 69.0}}
    report = summarize(from_aipowermeter(save(tmp_path, *(line(0.6 * i, laptop(66), gpu) for i in range(11)))))
    assert report.gpu_j == pytest.approx(88 * 6)
    assert report.channels["aipm:gpu1"].energy_j == pytest.approx(69 * 6)
    only = {all_of_them: 88.0}
    report = summarize(from_aipowermeter(save(tmp_path, *(line(0.6 * i, None, only) for i in range(11)))))
    assert report.gpu_j == report.total_measured_j == pytest.approx(88 * 6)
    assert report.cpu_j is None
    mixed = [line(0.6 * i, None, gpu if i < 6 else only) for i in range(11)]
    report = summarize(from_aipowermeter(save(tmp_path, *mixed)))
    assert report.gpu_j == pytest.approx(88 * 3)  # what is known of each, and nothing twice


def test_the_period_is_the_median_and_a_long_gap_is_not_filled(tmp_path: Path) -> None:
    times = [0, 2, 4, 6, 8, 30, 32, 34]
    log = from_aipowermeter(save(tmp_path, *(line(t, laptop(50)) for t in times)))
    assert [s.t_s for s in log] == times
    assert {c.resolution_s for c in log.segments[0].channels} == {2.0}
    report = summarize(log)
    package = report.channels["aipm:package"]
    assert package.energy_j == pytest.approx(50 * 12)
    assert package.coverage == pytest.approx(12 / 34)
    assert "gap" in package.flags
    assert log[0].unix_s == START.timestamp()
    assert log[0].memory == {"process": 434121728 + 175577088}


def test_a_torn_last_line_is_left_out_and_a_bad_one_is_named(tmp_path: Path) -> None:
    lines = [line(2 * i, laptop(30)) for i in range(4)]
    whole = from_aipowermeter(save(tmp_path, *lines))
    for cut in (1, 40, len(lines[0]) - 1):
        assert from_aipowermeter(save(tmp_path, *lines, lines[0][:cut], end="")) == whole
    with pytest.raises(ValueError, match="line 2: not JSON"):
        from_aipowermeter(save(tmp_path, lines[0], lines[0][:40], lines[1]))
    with pytest.raises(ValueError, match="line 1: no `metrics`"):
        from_aipowermeter(save(tmp_path, '{"type": "header"}', lines[1]))
    with pytest.raises(ValueError, match="line 2: date must be"):
        from_aipowermeter(save(tmp_path, lines[0], json.dumps({"date": "yesterday", "metrics": {}})))
    for empty in ("", json.dumps(END)):
        with pytest.raises(ValueError, match="holds no sample"):
            from_aipowermeter(save(tmp_path, empty))
    with pytest.raises(FileNotFoundError):
        from_aipowermeter(tmp_path / "nothing.json")


def test_time_never_runs_backwards_when_the_local_clock_does(tmp_path: Path) -> None:
    times = [0, 2, 4, 6, 8, -3590, -3588, -3586]  # summer time ends
    log = from_aipowermeter(save(tmp_path, *(line(t, laptop(50)) for t in times)))
    assert [len(s.samples) for s in log.segments] == [5, 3]
    moments = [s.t_s for s in log]
    assert moments == sorted(moments)
    assert summarize(log).cpu_j == pytest.approx(50 * (8 + 4))


def test_values_that_are_no_powers_are_left_out(tmp_path: Path) -> None:
    bad: list[Any] = [None, "N/A", True, float("nan"), float("inf"), -1, [], [1, 2], {}]
    lines = [line(2 * i, {"intel_power": value, "total_dram_power": 3.0}) for i, value in enumerate(bad)]
    log = from_aipowermeter(save(tmp_path, *lines))
    assert all(set(s.w) == {"aipm:dram"} for s in log)
    assert summarize(log).cpu_j is None


def test_the_folder_is_enough_and_the_file_is_not_touched(tmp_path: Path) -> None:
    path = save(tmp_path, *(line(2 * i, laptop(30)) for i in range(3)), json.dumps(END))
    before = path.read_bytes()
    assert from_aipowermeter(tmp_path) == from_aipowermeter(path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["power_metrics.json"]
