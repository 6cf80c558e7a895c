from __future__ import annotations

import dataclasses
import math
import random

import pytest

from mcmcopt.energy import carbon
from mcmcopt.energy.outputs.emissions import Carbon
from mcmcopt.energy.report import Report

SOURCE = "a made-up grid, 2024"


def report(measured: float | None, estimated: float | None = None) -> Report:
    return Report("total", 10.0, {}, None, None, None, measured, estimated, 1.0)


def test_a_kilowatt_hour_emits_its_factor() -> None:
    assert carbon(report(3.6e6), 56, source=SOURCE) == Carbon(56.0, 3.6e6, 56.0, 1.0, SOURCE, "measured", "estimated")


def test_it_is_linear_in_energy_factor_and_building() -> None:
    rng = random.Random(0)
    for _ in range(50):
        energy, factor, pue, k = rng.uniform(0, 1e9), rng.uniform(0, 900), rng.uniform(1, 2), rng.uniform(1, 3)
        one = carbon(report(energy), factor, pue, source=SOURCE).grams
        assert one is not None
        assert math.isclose(one * 3.6e6, energy * factor * pue, rel_tol=1e-12, abs_tol=1e-9)
        for other in (
            carbon(report(k * energy), factor, pue, source=SOURCE),
            carbon(report(energy), k * factor, pue, source=SOURCE),
            carbon(report(energy), factor, k * pue, source=SOURCE),
        ):
            assert other.grams == pytest.approx(k * one)
            assert other.provenance == "estimated"


def test_what_was_not_measured_is_not_replaced_by_the_estimate() -> None:
    both = report(None, 7.2e6)
    nothing = carbon(both, 100, source=SOURCE)
    assert (nothing.grams, nothing.energy_j) == (None, None)
    asked = carbon(both, 100, source=SOURCE, of="estimated")
    assert (asked.grams, asked.energy_j, asked.of) == (200.0, 7.2e6, "estimated")
    assert carbon(report(3.6e6, 7.2e6), 100, source=SOURCE).grams == 100
    assert carbon(report(0.0), 100, source=SOURCE).grams == 0
    with pytest.raises(dataclasses.FrozenInstanceError):
        nothing.grams = 1.0  # type: ignore[misc]


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ({"g_per_kwh": -1}, ValueError, "g_per_kwh must be finite and at least 0, got -1"),
        ({"g_per_kwh": math.nan}, ValueError, "g_per_kwh"),
        ({"g_per_kwh": math.inf}, ValueError, "g_per_kwh"),
        ({"g_per_kwh": "56"}, TypeError, "g_per_kwh must be a number, got '56'"),
        ({"g_per_kwh": True}, TypeError, "g_per_kwh"),
        ({"pue": 0.99}, ValueError, "pue must be finite and at least 1, got 0.99"),
        ({"pue": None}, TypeError, "pue"),
        ({"source": "  "}, ValueError, "source must say"),
        ({"source": 2024}, TypeError, "source"),
        ({"of": "both"}, ValueError, "of must be one of measured, estimated, got 'both'"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict[str, object], error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        carbon(report(1.0), **{"g_per_kwh": 56.0, "source": SOURCE, **arguments})  # type: ignore[arg-type]


def test_the_source_cannot_be_left_out() -> None:
    with pytest.raises(TypeError, match="source"):
        carbon(report(1.0), 56.0)  # type: ignore[call-arg]
