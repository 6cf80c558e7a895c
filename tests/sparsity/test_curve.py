"""The area under a resistance curve and the sparsity that it bears: by hand, and as properties."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcmcopt.sparsity import area, sparsity_at


@st.composite
def curves(draw):
    cells = draw(st.lists(st.integers(1, 99), min_size=1, max_size=20, unique=True))
    sparsity = [0.0, *(cell / 100 for cell in sorted(cells))]
    return sparsity, draw(st.lists(st.floats(0, 1), min_size=len(sparsity), max_size=len(sparsity)))


def test_area_by_hand():
    # x = 0, 1, 2: (0.95 + 0.75) / 2 and (0.75 + 0.25) / 2, halved
    assert area([0, 0.9, 0.99], [0.95, 0.75, 0.25]) == pytest.approx((0.85 + 0.5) / 2)
    # a step to 0.9 counts as much as one from 0.9 to 0.99, which a linear axis would give a tenth of the weight
    assert area([0, 0.9, 0.99], [1, 1, 0]) == pytest.approx(0.75)
    assert area([0, 0.9, 0.99, 1], [1, 1, 0, 0]) == pytest.approx(0.75)


@given(curves())
def test_area_is_a_mean(curve):
    sparsity, accuracy = curve
    assert min(accuracy) - 1e-12 <= area(sparsity, accuracy) <= max(accuracy) + 1e-12
    assert area(sparsity, [0.3] * len(sparsity)) == pytest.approx(0.3)
    halves = [value / 2 for value in accuracy]
    assert area(sparsity, halves) == pytest.approx(area(sparsity, accuracy) / 2)


@given(curves())
def test_area_of_a_straight_line_does_not_depend_on_its_points(curve):
    sparsity = curve[0]
    accuracy = [1 + math.log10(1 - s) / 2 for s in sparsity]
    assert area(sparsity, accuracy) == pytest.approx((1 + accuracy[-1]) / 2)


def test_sparsity_at_by_hand():
    # from 0 at x = 0 to 2 points lost at x = 1: one point at x = 1/2
    assert sparsity_at([0, 0.9], [0.95, 0.93]) == pytest.approx(1 - 10**-0.5)
    assert sparsity_at([0, 0.9, 0.99], [0.95, 0.96, 0.92]) == pytest.approx(1 - 10**-1.5)  # one point below the start
    assert sparsity_at([0, 0.9, 0.99], [0.95, 0.93, 0.95], points=4) == 0.99
    assert sparsity_at([0, 0.9, 0.99], [0.95, 0.93, 0.95]) < 0.9  # the first crossing counts


def test_sparsity_at_its_ends():
    assert sparsity_at([0, 0.5, 0.9], [0.8, 0.8, 0.9]) == 0.9
    assert sparsity_at([0, 0.5, 0.9, 1.0], [0.8, 0.8, 0.8, 0.1]) == 0.9  # log-sparsity has no place for 1
    assert sparsity_at([0, 0.5, 0.9], [0.8, 0.7, 0.1], points=0) == 0
    assert 0 < sparsity_at([0, 0.5, 0.9], [1.0, 0.0, 0.0]) < 0.01
    for start in range(1, 101):  # a loss of exactly the points given is within, whatever its rounding
        assert sparsity_at([0, 0.5, 0.9], [start / 100, (start - 1) / 100, start / 100]) == 0.9


@given(curves(), st.floats(0, 50), st.floats(0, 50))
def test_more_points_last_longer_and_up_to_there_none_is_lost(curve, one, two):
    sparsity, accuracy = curve
    few, many = (sparsity_at(sparsity, accuracy, points) for points in sorted((one, two)))
    assert 0 <= few <= many + 1e-12
    assert many <= sparsity[-1] + 1e-12
    assert all(
        100 * (accuracy[0] - a) <= max(one, two) + 1e-6 for s, a in zip(sparsity, accuracy, strict=True) if s < many
    )


def test_no_accuracy_gives_no_number():
    for function in (area, sparsity_at):
        assert math.isnan(function([0, 0.5, 0.9], [math.nan] * 3))
    assert math.isnan(sparsity_at([0, 0.5, 0.9], [0.9, math.nan, 0.1]))


@pytest.mark.parametrize("function", [area, sparsity_at])
@pytest.mark.parametrize(
    ("sparsity", "accuracy", "named"),
    [
        ([0, 0.5], [0.9], "2 and 1"),
        ([0.1, 0.5], [0.9, 0.8], "increase from 0"),
        ([0, 0.5, 0.5], [0.9, 0.8, 0.7], "increase from 0"),
        ([0, 0.9, 0.5], [0.9, 0.8, 0.7], "increase from 0"),
        ([0, 1], [0.9, 0.1], "two or more points below 1"),
        ([], [], "two or more"),
        ([0, 0.5, math.nan], [0.9, 0.8, 0.1], "increase from 0"),
        ([0, 0.5, 1.5], [0.9, 0.8, 0.1], "1.5"),
        ([0, 0.5], [97.1, 80], "accuracy must be shares from 0 to 1, got 97.1"),
    ],
)
def test_curves_that_are_none_are_refused(function, sparsity, accuracy, named):
    with pytest.raises(ValueError, match=named):
        function(sparsity, accuracy)


@pytest.mark.parametrize("points", [-1, math.nan, math.inf, "1", True])
def test_wrong_points_are_named(points):
    with pytest.raises(ValueError, match="points must be"):
        sparsity_at([0, 0.5], [0.9, 0.8], points)
