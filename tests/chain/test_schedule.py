"""Geometric annealing of λ, cubic decay of a density."""

import math

import pytest

from mcmcopt.chain.schedule import CubicDecay, GeometricAnnealing, Piecewise


def test_it_starts_ends_and_multiplies_by_the_same_factor_each_step():
    schedule = GeometricAnnealing(10.0, 1000.0, 4)
    assert [schedule(t) for t in range(7)] == pytest.approx([10, 10**1.5, 100, 10**2.5, 1000, 1000, 1000])
    assert GeometricAnnealing(8, 2, 2)(1) == pytest.approx(4)


def test_its_repr_says_how_to_make_it_again():
    assert repr(GeometricAnnealing(10, 1e3, 4)) == "GeometricAnnealing(start=10.0, end=1000.0, steps=4)"


@pytest.mark.parametrize("name", ["start", "end"])
@pytest.mark.parametrize("value", [0, -1.0, math.nan, math.inf, "x", True, None])
def test_bad_temperatures_are_refused_by_name_and_value(name, value):
    with pytest.raises(ValueError, match=f"^{name} must be a positive") as caught:
        GeometricAnnealing(**({"start": 1.0, "end": 2.0, "steps": 3} | {name: value}))
    assert repr(value) in str(caught.value)


@pytest.mark.parametrize("steps", [0, -1, 1.5, "x", True, None])
def test_bad_numbers_of_steps_are_refused(steps):
    with pytest.raises(ValueError, match=r"^steps must be an integer of at least 1") as caught:
        GeometricAnnealing(1.0, 2.0, steps)
    assert repr(steps) in str(caught.value)


def test_cubic_decay_is_fast_at_first_and_ends_where_it_should():
    decay = CubicDecay(1.0, 0.2, steps=4, after=2)
    expected = [1.0, 1.0, 1.0, 0.2 + 0.8 * 0.75**3, 0.2 + 0.8 * 0.5**3, 0.2 + 0.8 * 0.25**3, 0.2, 0.2]
    assert [decay(t) for t in range(8)] == pytest.approx(expected)
    assert eval(repr(decay))(3) == decay(3)  # noqa: S307


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("start", 1.1),
        ("start", "x"),
        ("end", -0.1),
        ("end", math.nan),
        ("end", True),
        ("steps", 0),
        ("steps", 1.5),
        ("after", -1),
    ],
)
def test_bad_decays_are_refused_by_name_and_value(name, value):
    with pytest.raises(ValueError, match=f"^{name} must be") as caught:
        CubicDecay(**({"start": 1.0, "end": 0.1, "steps": 3} | {name: value}))
    assert repr(value) in str(caught.value)


def test_piecewise_goes_straight_from_point_to_point():
    schedule = Piecewise([(2, 1.0), (4, 0.0), (8, 0.5)])
    assert [schedule(t) for t in range(11)] == pytest.approx([1, 1, 1, 0.5, 0, 0.125, 0.25, 0.375, 0.5, 0.5, 0.5])
    assert Piecewise([(3, 7)])(0) == Piecewise([(3, 7)])(9) == 7
    assert eval(repr(schedule))(3) == 0.5  # noqa: S307


@pytest.mark.parametrize(
    "points",
    [[], [(0,)], [(0, 1.0), (0, 2.0)], [(5, 1.0), (2, 1.0)], [(0, math.nan)], [(0.5, 1.0)], [(0, "x")], [(True, 1.0)]],
)
def test_bad_points_are_refused(points):
    with pytest.raises(ValueError, match=r"^points must"):
        Piecewise(points)
