from __future__ import annotations

import random
import re
from dataclasses import replace
from typing import Any

import pytest

from mcmcopt.energy.outputs.text import joules, number, seconds, size_of, table
from mcmcopt.energy.report import Attribution, Baseline, Memory, Reading, Report, WindowTotal

PACKAGE = Reading("cpu_package", "package-0", "counter", 5000.0, 50.0, 1.0, 0.1)
DRAM = Reading("dram", "dram", "counter", 1234.5, 12.345, 0.5, 0.1, flags=("reset", "unread_edge"))
PSYS = Reading("psys", "psys", "counter", 9000.0, 90.0, 1.0, counted=False)
TDP = Reading("cpu_package", "model", "estimated", 4000.0, 40.0, 1.0, reason="65 W times the load of the processor")
NO_GPU = Reading("gpu", "0", "absent", None, counted=False, reason="the driver is not loaded")


def make(channels: dict[str, Reading], **known: Any) -> Report:
    nothing: dict[str, Any] = {
        "cpu_j": None, "dram_j": None, "gpu_j": None, "total_measured_j": None, "total_estimated_j": None,
        "coverage": 0.0,
    }  # fmt: skip
    return Report("training", 100.0, channels, **{**nothing, **known})


FULL = make(
    {"rapl:package-0": PACKAGE, "rapl:dram": DRAM, "rapl:psys": PSYS, "model:cpu": TDP, "nvml:0": NO_GPU},
    total_measured_j=6234.5,
    total_estimated_j=4000.0,
    coverage=0.5,
    process=Attribution(80.0, 160.0, 0.5, 2500.0),
    idle=Baseline(20.0, 0.5, 30.0, "measured"),
    net_j=4234.5,
    memory=Memory(3 * 2**30, {"nvml:0": 5 * 2**20}),
    windows={"epoch": WindowTotal(3, 90.0, 5600.0, None), "eval": WindowTotal(3, 9.0, None, 56.0)},
    flags=("suspended",),
)


def row(text: str, start: str) -> str:
    found = [line for line in text.splitlines() if line.startswith(start)]
    assert len(found) == 1, text
    return found[0]


def test_everything_is_there_with_its_label() -> None:
    text = table(FULL)
    assert text.splitlines()[0] == "Energy of training: 100 s (1 min 40 s) [suspended]"
    assert row(text, "rapl:package-0").split() == ["rapl:package-0", "5000", "50.0", "counter", "100", "%"]
    assert row(text, "rapl:dram").split()[1:] == ["1234", "12.3", "counter", "50", "%", "reset", "unread_edge"]
    assert "not_summed" in row(text, "rapl:psys")
    assert "estimated" in row(text, "model:cpu")
    assert row(text, "nvml:0") == "nvml:0: absent: the driver is not loaded"
    assert "6234 J (1.73 Wh), coverage 50 %" in row(text, "measured")
    assert row(text, "estimated").endswith("not a measurement: 65 W times the load of the processor")
    assert "2500 J, estimated: 50 % of the machine's CPU time (80.0 CPU s)" in row(text, "this process")
    assert "4234 J (1.18 Wh) (idle 20.0 W, measured over 30.0 s)" in row(text, "net above idle")
    assert [line[16:] for line in text.splitlines() if line.startswith("memory")] == [
        "3.00 GiB (this process tree)", "5.00 MiB (nvml:0)",
    ]  # fmt: skip
    assert row(text, "epoch").split() == ["epoch", "3", "90.0", "5600"]
    assert row(text, "eval").split() == ["eval", "3", "9.00", "56.0", "estimated"]
    assert str(FULL) == text


def test_a_missing_total_is_words_and_never_a_number() -> None:
    text = table(make({"nvml:0": NO_GPU, "rapl": replace(NO_GPU, reason="no powercap")}))
    line = row(text, "measured")
    assert line.split(maxsplit=1)[1] == "not measured: the driver is not loaded; no powercap"
    assert not re.search(r"\b0(\.0*)?\b", text.split("\n", 1)[1].replace("nvml:0", ""))
    assert "not measured: no sensor was found" in table(make({}))
    assert "no measured channel may be added" in table(make({"rapl:psys": PSYS}))
    estimate = table(make({"model:cpu": TDP, "nvml:0": NO_GPU}, total_estimated_j=4000.0))
    assert "4000" not in row(estimate, "measured")
    assert "not measured: the driver is not loaded" in row(estimate, "measured")
    silent = replace(PACKAGE, energy_j=None, mean_w=None, coverage=0.0, flags=("frozen",))
    assert "not measured: rapl gave no reading (frozen)" in row(table(make({"rapl": silent})), "measured")
    part = make({}, process=Attribution(0.0, 0.0, None, None))
    assert "too little CPU time" in row(table(part), "this process")
    part = make({}, process=Attribution(1.0, 4.0, 0.25, None))
    assert "energy not known" in row(table(part), "this process")


@pytest.mark.parametrize("seed", range(20))
def test_no_line_is_too_wide_and_nothing_controls_the_terminal(seed: int) -> None:
    rng = random.Random(seed)

    def words(n: int) -> str:
        return " ".join("x" * rng.randrange(1, 15) for _ in range(n)) + rng.choice(["", "\n", "y" * 150])

    channels = {}
    for i in range(rng.randrange(8)):
        base = rng.choice([PACKAGE, DRAM, PSYS, TDP, NO_GPU])
        flags = tuple("f" * rng.randrange(3, 20) for _ in range(rng.randrange(6)))
        energy = None if base.energy_j is None else 10 ** rng.uniform(-6, 14)
        reason = words(30) if base.reason else ""
        channels[f"{i}{words(3)}"] = replace(base, flags=flags, energy_j=energy, mean_w=energy, reason=reason)
    windows = {f"{i} {words(9)}": WindowTotal(10**i, 1e6, 10.0**i, None) for i in range(rng.randrange(4))}
    total = rng.choice([None, 10 ** rng.uniform(-6, 14)])
    text = table(make(channels, windows=windows, total_measured_j=total, flags=("suspended",) * rng.randrange(9)))
    assert max(map(len, text.splitlines())) <= 100
    assert all(c.isprintable() for line in text.split("\n") for c in line)


@pytest.mark.parametrize("seed", range(5))
def test_numbers_keep_three_digits_and_their_value(seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(200):
        value = rng.choice([-1, 1]) * 10 ** rng.uniform(-9, 18)
        text = number(value)
        assert float(text) == pytest.approx(value, rel=5.1e-3)
        digits = re.sub(r"e.*|[-.]", "", text).lstrip("0")
        assert len(digits) >= 3


def test_units() -> None:
    assert [number(v) for v in (0, 0.01234, 9.9999, 123456.7, 1e-7)] == ["0", "0.0123", "10.00", "123457", "1.00e-07"]
    assert joules(3599) == "3599 J"
    assert joules(3600) == "3600 J (1.00 Wh)"
    assert joules(7.2e6) == "7200000 J (2.00 kWh)"
    assert [seconds(v) for v in (1.5, 3661)] == ["1.50 s", "3661 s (1 h 1 min 1 s)"]
    assert [size_of(v) for v in (0, 1023, 1024, 3 * 2**40, 2**52)] == [
        "0 B", "1023 B", "1.00 KiB", "3.00 TiB", "4096 TiB",
    ]  # fmt: skip


def test_a_coverage_that_is_not_whole_never_reads_whole() -> None:
    text = table(make({"rapl": replace(PACKAGE, coverage=0.99996)}))
    assert "99.9 %" in row(text, "rapl")


def test_boards_are_told_apart() -> None:
    names = [f"nvml:GPU-{a}f3c2e5a-0b1c-4d2e-9f3a-{b:012d}" for a, b in ((8, 1), (8, 2), (9, 1))]
    text = table(make(dict.fromkeys(names, replace(DRAM, kind="gpu", energy_j=123456789.0))))
    assert len({line.split()[0] for line in text.splitlines() if line.startswith("nvml")}) == 3
