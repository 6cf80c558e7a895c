"""C18: the log-ratio against a float64 reference, and what the rounding of the losses can do to it."""

import math

import pytest
import torch

from mcmcopt.chain.accept import log_acceptance, loss_decrease, rounding

LAM, N = 5e4, 4096


def losses(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return float64 per-sample cross-entropies of a state and of a proposal close to it."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(N, 10, generator=generator, dtype=torch.float64)
    labels = torch.randint(10, (N,), generator=generator)
    near = logits + 1e-3 * torch.randn(N, 10, generator=generator, dtype=torch.float64)
    return tuple(torch.nn.functional.cross_entropy(z, labels, reduction="none") for z in (logits, near))


def error(before: torch.Tensor, after: torch.Tensor, seed: int) -> float:
    exact_before, exact_after = losses(seed)
    exact = LAM * math.fsum((exact_before - exact_after).tolist()) / N
    return abs(log_acceptance(LAM, loss_decrease(before.double(), after), 0.0) - exact)


TABLE = [  # form of the loss, dtype, largest error of log A over the seeds, smallest root-mean-square error
    ("sample", torch.float64, 1e-9, 0.0),
    ("sample", torch.float32, 5e-4, 0.0),
    ("sample", torch.bfloat16, 40.0, 0.5),
    ("mean", torch.float64, 1e-9, 0.0),
    ("mean", torch.float32, 2e-2, 1e-3),
    ("mean", torch.bfloat16, 500.0, 0.5),  # both means round to the same number: nothing is left of the ratio
]


@pytest.mark.parametrize(("form", "dtype", "largest", "smallest"), TABLE)
def test_the_log_ratio_against_float64(form, dtype, largest, smallest):
    errors = []
    for seed in range(12):
        pair = losses(seed)
        if form == "mean":
            pair = tuple(values.mean() for values in pair)
        before, after = (values.to(dtype) for values in pair)
        bound = rounding(before, LAM) + rounding(after, LAM)
        errors.append(error(before, after, seed))
        assert errors[-1] <= 5 * bound + 1e-9
    assert max(errors) < largest
    assert math.sqrt(sum(e * e for e in errors) / 12) >= smallest


def test_per_sample_losses_in_float32_beat_their_float32_mean_by_far():
    def total(form):
        return sum(error(*(form(values.float()) for values in losses(seed)), seed) for seed in range(12))

    assert total(lambda values: values) < total(lambda values: values.mean()) / 20


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_rounding_is_half_a_unit_in_the_last_place_times_lam(dtype):
    half = torch.finfo(dtype).eps / 2
    assert rounding(torch.tensor(2.0, dtype=dtype), 100.0) == pytest.approx(100 * half * 2)
    assert rounding(torch.full((16,), 2.0, dtype=dtype), 100.0) == pytest.approx(100 * half * 2 / 4)
    assert rounding(torch.tensor(2.0, dtype=dtype), 0.0) == 0.0


def test_losses_of_any_shape_mean_their_mean():
    before, after = torch.rand(2, 3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert loss_decrease(before, after) == pytest.approx(float(before.mean() - after.mean()), abs=1e-15)
    assert loss_decrease(torch.tensor(3.0).double(), torch.tensor(1.0)) == 2.0
    assert loss_decrease(torch.tensor([3.0]).double(), torch.tensor([1.0]).bfloat16()) == 2.0


def test_a_ratio_that_is_not_a_number_counts_as_minus_infinity():
    assert log_acceptance(0.0, math.inf, 1.0) == -math.inf
    assert log_acceptance(1.0, math.nan, 0.0) == -math.inf
    assert log_acceptance(1.0, 0.0, math.nan) == -math.inf
    assert log_acceptance(1.0, math.inf, -math.inf) == -math.inf
    assert log_acceptance(2.0, -math.inf, 0.0) == -math.inf
    assert log_acceptance(2.0, 0.5, 0.25) == 1.25
