"""The growing batch: the decision as a function of the fresh losses."""

import numpy as np
import pytest

from experiments.batches import EVERYTHING, Batches
from experiments.growth import Growth, stalled


def test_nothing_is_decided_before_two_windows_are_full():
    assert not stalled([1.0] * 5, 3, 0.0)
    assert stalled([1.0] * 6, 3, 0.0)


@pytest.mark.parametrize(
    ("losses", "threshold", "expected"),
    [
        ([2.0, 2.0, 1.0, 1.0], 0.0, False),  # a gain without noise
        ([1.0, 1.0, 2.0, 2.0], 0.0, True),  # a loss
        ([2.0, 2.0, 1.99, 1.99], 0.01, True),  # a gain of half a percent
        ([2.0, 2.0, 1.97, 1.97], 0.01, False),
        ([3.0, 1.0, 2.6, 0.6], 0.0, True),  # a gain of 0.4, its standard error sqrt(2)
        ([9.0, 9.0, 2.0, 2.0, 2.0, 2.0], 0.0, True),  # only the last two windows count
    ],
)
def test_decisions(losses, threshold, expected):
    assert stalled(losses, 2, threshold) == expected


def test_rates_on_noise_alone_and_on_a_clear_trend():
    rng = np.random.default_rng(0)
    flat = np.mean([stalled(rng.normal(2, 0.1, 20).tolist(), 10, 0.0) for _ in range(2000)])
    falling = np.mean([stalled((rng.normal(2, 0.01, 20) - np.arange(20) / 50).tolist(), 10, 0.0) for _ in range(500)])
    assert flat == pytest.approx(0.84, abs=0.03)  # the normal distribution's share below one standard error
    assert falling == 0


def test_size_grows_by_its_factor_up_to_all():
    growth = Growth(start=10, factor=1.5, patience=2, threshold=0.0)
    sizes = [10]
    while sizes[-1] < 40:
        sizes.append(growth.next_size(sizes[-1], 40, [1.0] * 4))
    assert sizes == [10, 15, 23, 35, 40]
    assert growth.next_size(10, 40, [4.0, 3.9, 2.0, 1.9]) == 10


@pytest.mark.parametrize(("name", "value"), [("start", 0), ("factor", 1.0), ("patience", 1), ("threshold", 1.0)])
def test_settings_out_of_range_are_named(name, value):
    with pytest.raises(ValueError, match=rf"train\.growth\.{name}"):
        Growth(**{name: value})


def test_repeated_batches_are_one_object():
    batches = Batches(10, 5, 0, repeats=2)
    taken = [(batches.fresh, batches.take()) for _ in range(8)]
    assert [fresh for fresh, _ in taken] == [True, False] * 4
    assert all(a[1] is b[1] for a, b in zip(taken[::2], taken[1::2], strict=True))
    assert batches.per_epoch == 4
    assert batches.epoch_done


def test_resized_batches_start_a_new_pass():
    batches = Batches(10, 3, 0)
    batches.take()
    batches.resize(5)
    assert sorted([*batches.take().tolist(), *batches.take().tolist()]) == list(range(10))
    batches.resize(12)
    assert batches.take() is batches.take() is EVERYTHING
    assert not batches.fresh
