"""The cost of one inference: repeated long enough, or it says how long would be enough."""

import time

import pytest
import torch

from mcmcopt.energy import EnergyMeter, measure_inference
from tests.energy.stand_ins import Steady


def of(model, batch, seconds, watts=100.0, **settings):
    return measure_inference(
        model, batch, seconds, sources=(Steady(time.monotonic, watts),), attribute=False, **settings
    )


def test_joules_per_batch_and_sample_are_power_times_time():
    cost = of(lambda x: time.sleep(0.002), range(8), 0.25, warm_up=0.0)
    assert cost.j_per_batch == pytest.approx(100 * cost.seconds_per_batch, rel=0.01)
    assert cost.j_per_sample == pytest.approx(cost.j_per_batch / 8)
    assert cost.repetitions * cost.seconds_per_batch == pytest.approx(cost.report.duration_s)
    assert 0.25 <= cost.report.duration_s < 1


def test_warm_up_is_not_measured():
    calls = []

    def model(x):
        calls.append(time.monotonic())
        time.sleep(0.005)

    cost = of(model, [0], 0.1, warm_up=0.1)
    assert cost.repetitions <= len(calls) - 10
    assert cost.report.duration_s < 0.2


def test_a_short_run_says_how_long_it_would_need():
    short, long = of(lambda x: None, [0], 0.02, warm_up=0.0), of(lambda x: None, [0], 0.3, warm_up=0.0)
    assert not short.precise
    assert "1 % needs" in str(short)
    # 200 resolutions of the counter, and 100 times what the two readings took
    assert 0.2 <= short.needed_s < 0.4
    assert long.precise
    assert "needs" not in str(long)


def test_a_model_runs_without_gradients_and_stays_as_it_is():
    model, seen = torch.nn.Linear(3, 2), []
    model.register_forward_hook(lambda *_: seen.append(torch.is_grad_enabled()))
    cost = of(model, torch.zeros(4, 3), 0.01, warm_up=0.0)
    assert seen
    assert not any(seen)
    assert torch.is_grad_enabled()
    assert model.training
    assert cost.batch_size == 4


def test_idle_is_measured_and_taken_off():
    cost = measure_inference(
        lambda x: time.sleep(0.001),
        [0],
        0.05,
        warm_up=0.0,
        idle=2.0,
        sources=(Steady(time.monotonic),),
        attribute=False,
        sleep=lambda s: time.sleep(s / 50),
    )
    assert cost.report.idle.source == "measured"
    assert cost.report.idle.w == pytest.approx(100, rel=0.05)
    assert cost.net_j_per_batch < 0.1 * cost.j_per_batch  # the counter is steady: nothing is above rest


def test_where_nothing_is_measured_it_says_so_and_still_times():
    with pytest.warns(match="not measured"):
        cost = measure_inference(lambda x: None, [0], 0.01, warm_up=0.0, idle=2.0, sources=(), sleep=lambda s: None)
    assert cost.j_per_batch is cost.j_per_sample is cost.net_j_per_batch is cost.precision is None
    assert cost.seconds_per_batch > 0
    assert "not measured" in str(cost)


def test_an_estimate_stays_apart_and_is_watts_times_cpu_seconds():
    used = []

    def model(x):
        start = time.process_time()
        sum(range(100_000))
        used.append(time.process_time() - start)

    with pytest.warns(match="not measured"):
        cost = measure_inference(model, [0], 0.3, warm_up=0.0, sources=(), cpu_estimate=10.0)
    assert cost.j_per_batch is cost.precision is None
    ticks = 10 * 0.02  # the kernel charges CPU time in hundredths of a second, at either edge
    assert cost.estimated_j_per_batch * cost.repetitions == pytest.approx(10 * sum(used), rel=0.1, abs=ticks)
    assert "estimated" in str(cost)


def test_a_running_meter_is_used():
    with EnergyMeter((Steady(time.monotonic),), attribute=False) as meter:
        measure_inference(lambda x: None, [0], 0.01, warm_up=0.0, meter=meter)
    assert meter.report.windows["inference"].count == 1


@pytest.mark.parametrize(
    "times", [{"seconds": 0}, {"seconds": -1}, {"seconds": 1, "idle": 1}, {"seconds": 1, "warm_up": -1}]
)
def test_times_that_make_no_sense_are_refused(times):
    with pytest.raises(ValueError, match="seconds"):
        measure_inference(lambda x: None, [0], **times)


class Resetting(Steady):
    """Begins anew at its tenth reading."""

    def read(self, scope="tick"):
        if self.reads == 10:
            begin, clock = self.clock(), self.clock
            self.clock = lambda: clock() - begin
        return super().read(scope)


def test_joules_of_a_part_of_the_time_are_not_divided_by_all_repetitions():
    with EnergyMeter((Resetting(time.monotonic),), attribute=False, background=False) as meter:

        def model(x):
            time.sleep(0.002)
            meter.tick()

        cost = measure_inference(model, [0], 0.1, warm_up=0.0, meter=meter)
    assert 0.5 < cost.report.coverage < 0.99
    assert cost.report.total_measured_j > 0
    assert cost.j_per_batch is cost.j_per_sample is cost.precision is None
    assert "of the time only" in str(cost)


def test_samples_are_counted_in_the_batch_however_it_is_packed():
    def size(batch, **settings):
        return of(lambda x: None, batch, 0.01, warm_up=0.0, **settings).batch_size

    assert size(torch.zeros(64, 3)) == 64
    assert size({"x": torch.zeros(64, 3), "y": torch.zeros(64)}) == 64
    assert size(3.0) == 1
    assert size((torch.zeros(7, 2), torch.zeros(7)), batch_size=7) == 7
