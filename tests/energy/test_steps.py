"""Hooks of an optimizer: one reading per step, joules that add up, and no trace after they are removed."""

import pytest
import torch

from tests.energy.rig import ONE, rig, run, uj


class Handle:
    def __init__(self, hooks, hook):
        self.hooks, self.hook = hooks, hook
        hooks.append(hook)

    def remove(self):
        self.hooks.remove(self.hook)


class FakeOptimizer:
    """Has the two methods that are asked for, and nothing of torch."""

    def __init__(self, machine, seconds=0.5):
        self.pre, self.post, self.machine, self.seconds = [], [], machine, seconds

    def register_step_pre_hook(self, hook):
        return Handle(self.pre, hook)

    def register_step_post_hook(self, hook):
        return Handle(self.post, hook)

    def step(self):
        for hook in self.pre:
            hook(self, (), {})
        self.machine.advance(self.seconds)
        for hook in self.post:
            hook(self, (), {})


@pytest.fixture
def bench(tmp_path):
    machine, meter = rig(tmp_path, ONE)
    return machine, meter, FakeOptimizer(machine)


def readings(machine):
    """Count what is read from here on."""
    pread, count = machine.pread, [0]

    def counting(fd, n):
        count[0] += 1
        return pread(fd, n)

    machine.pread = counting
    return count


def test_each_step_of_a_real_optimizer_is_seen_and_its_hooks_are_as_before_once_removed(tmp_path):
    machine, meter = rig(tmp_path, ONE)
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    hooks = optimizer._optimizer_step_pre_hooks, optimizer._optimizer_step_post_hooks
    before = [dict(h) for h in hooks]
    other = optimizer.register_step_post_hook(lambda *_: None)
    with meter:
        handle = meter.attach(optimizer)
        for _ in range(7):
            machine.advance(0.5)
            optimizer.zero_grad()
            (weight**2).sum().backward()
            optimizer.step()
        handle.remove()
        assert not hooks[0]
        assert len(hooks[1]) == 1
        handle.remove()
        optimizer.step()
    assert handle.steps == 7
    assert handle.report.total_measured_j == 6 * 60.0
    other.remove()
    assert [dict(h) for h in hooks] == before
    assert weight[0].item() == pytest.approx(0.8**7 - 0.1 * 2 * 0.8**6)


def test_the_result_of_a_closure_passes_through(tmp_path):
    machine, meter = rig(tmp_path, ONE)
    weight = torch.nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([weight], lr=0.1)

    def closure():
        machine.advance(2.0)
        optimizer.zero_grad()
        loss = (weight**2).sum()
        loss.backward()
        return loss

    with meter:
        handle = meter.attach(optimizer)
        assert optimizer.step(closure).item() == 1.0
    assert handle.last.total_measured_j == 240.0


def test_an_optimizer_without_torch_will_do_and_each_step_is_read_once(bench):
    machine, meter, optimizer = bench
    with meter:
        handle = meter.attach(optimizer)
        count = readings(machine)
        for _ in range(10):
            optimizer.step()
        assert count[0] == 11  # and once before the first
    assert (handle.steps, uj(handle.report), uj(handle.last)) == (10, 600_000_000, 60_000_000)


def test_a_step_holds_what_was_done_since_the_step_before(bench):
    machine, meter, optimizer = bench
    energies = []
    with meter:
        meter.attach(optimizer, callback=lambda report: energies.append(report.total_measured_j))
        machine.advance(100.0)
        for seconds in (0.0, 1.0, 2.0):
            machine.advance(seconds)  # the batch, forward, backward
            optimizer.step()
    assert energies == [60.0, 180.0, 300.0]


def test_every_third_step_is_read(bench):
    machine, meter, optimizer = bench
    reports = []
    with meter:
        handle = meter.attach(optimizer, every=3, callback=reports.append)
        count = readings(machine)
        for _ in range(9):
            optimizer.step()
        assert count[0] == 4
    assert [r.total_measured_j for r in reports] == [180.0] * 3
    assert handle.report.total_measured_j == 540.0


def test_a_step_that_a_gradient_scaler_skips_records_nothing(tmp_path):
    machine, meter = rig(tmp_path, ONE)
    weight = torch.nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
    with meter:
        handle = meter.attach(optimizer)
        for factor in (1.0, float("inf"), 1.0):
            machine.advance(1.0)
            optimizer.zero_grad()
            scaler.scale((weight * factor).sum()).backward()
            scaler.step(optimizer)
            scaler.update()
    assert handle.steps == 2
    assert handle.report.total_measured_j == 240.0


def test_before_the_first_reading_there_is_no_report(bench):
    _, meter, optimizer = bench
    with meter:
        handle = meter.attach(optimizer, every=2)
        for _ in range(2):
            with pytest.raises(RuntimeError, match="no step"):
                _ = handle.report
            optimizer.step()
        assert handle.report.total_measured_j == 120.0


@pytest.mark.parametrize("every", [0, -1, 1.5, True, "2"])
def test_a_senseless_number_of_steps_is_refused_and_leaves_no_hook(bench, every):
    _, meter, optimizer = bench
    with meter, pytest.raises(ValueError, match="every"):
        meter.attach(optimizer, every=every)
    assert optimizer.pre == optimizer.post == []


def test_what_has_no_hooks_is_refused(bench):
    _, meter, _ = bench
    with meter, pytest.raises(TypeError, match="register_step_pre_hook"):
        meter.attach(object())


def test_windows_ticks_and_steps_leave_each_other_their_joules(bench):
    machine, meter, optimizer = bench
    with meter:
        handle = meter.attach(optimizer)
        with meter.window("epoch") as window:
            for _ in range(4):
                optimizer.step()
                meter.tick()
        run(machine, meter, seconds=2)
    assert uj(handle.report) == uj(window.report) == 240_000_000
    assert uj(meter.report) == 480_000_000


def test_the_steps_in_meta_are_those_whose_joules_are_reported(bench):
    _, meter, optimizer = bench
    with meter:
        handle = meter.attach(optimizer, every=3)
        for _ in range(5):
            optimizer.step()
    assert handle.report.total_measured_j / handle.report.meta["steps"] == 60.0


def test_steps_of_two_runs_of_a_meter_are_not_subtracted_from_each_other(bench):
    machine, meter, optimizer = bench
    meter.start()
    run(machine, meter, seconds=100)
    handle = meter.attach(optimizer)
    optimizer.step()
    meter.stop()
    meter.start()
    try:
        optimizer.step()
        report = handle.report
    except RuntimeError:
        return  # refused
    finally:
        meter.stop()
    assert report.total_measured_j == 60.0 or report.total_measured_j == 120.0


def test_training_goes_on_after_the_meter_has_stopped(bench):
    _, meter, optimizer = bench
    with meter:
        handle = meter.attach(optimizer)
        optimizer.step()
    optimizer.step()
    assert handle.report.total_measured_j == 60.0


def test_a_step_in_which_the_meter_was_started_again_is_of_neither_run(bench, monkeypatch):
    """Between the step and its reading another thread may have stopped it and begun anew."""
    machine, meter, optimizer = bench
    meter.start()
    run(machine, meter, seconds=100)
    handle, again = meter.attach(optimizer, sync=True), []

    def synchronize():
        if again and again.pop():
            meter.stop()
            meter.start()

    monkeypatch.setattr("mcmcopt.energy.steps.synchronize", synchronize)
    optimizer.step()
    optimizer.step()
    again.append(True)
    optimizer.step()
    assert not again
    assert (handle.report.total_measured_j, handle.report.duration_s) == (120.0, 1.0)
    assert handle.last.total_measured_j == 60.0
    optimizer.step()
    assert handle.steps == 1
    assert (handle.report.total_measured_j, handle.report.duration_s) == (60.0, 0.5)
    meter.stop()
