import random
from types import SimpleNamespace

import pytest

from mcmcopt.energy.sensors.nvml import Nvml
from tests.energy.fakes.clock import FakeClock
from tests.energy.fakes.nvml import CONSTANTS, FakeBoard, FakeHandle, FakeNvml
from tests.energy.sensors.bench import T0, A, B, Bench, only

QUANTUM_S = 0.1
MILLIJOULE = 1e-3
AMPERE, PASCAL = CONSTANTS["NVML_DEVICE_ARCH_AMPERE"], CONSTANTS["NVML_DEVICE_ARCH_PASCAL"]
BURSTS = [point for i in range(20) for point in ((T0 + 3 * i, 300.0), (T0 + 3 * i + 0.5, 60.0))]
SCRIPTS = {
    "constant 250 W for 30 s": ([(T0, 250.0)], 30.0),
    "step from 60 to 300 W after 15 s of 30": ([(T0, 60.0), (T0 + 15, 300.0)], 30.0),
    "bursts, 0.5 s of 300 W every 3 s above 60 W, for 60 s": (BURSTS, 60.0),
}


@pytest.mark.parametrize("seed", range(20))
def test_between_two_updates_of_the_counter_the_energy_is_exact(seed: int) -> None:
    rng = random.Random(seed)
    bench = Bench(FakeBoard(A, power_w=[(T0 + 0.7 * i, rng.uniform(20, 700)) for i in range(40)]))
    begin = bench.read()
    for _ in range(30):
        bench.clock.advance(0.1 * rng.randint(1, 15))
        end = bench.read()
    reading = bench.report(begin, end)[f"gpu:{A}"]
    assert reading.provenance == "counter"
    assert reading.energy_j == pytest.approx(bench.true_j(A, begin, end), abs=MILLIJOULE)
    assert reading.coverage == 1.0
    assert reading.flags == ()


@pytest.mark.parametrize("seed", range(20))
def test_at_odd_moments_it_is_right_to_one_quantum_per_edge_and_never_implausible(seed: int) -> None:
    rng = random.Random(seed)
    bench = Bench(FakeBoard(A, power_w=[(T0 + 0.31 * i, rng.choice([15.0, 700.0])) for i in range(200)]))
    states = [bench.read()]
    for _ in range(200):
        bench.clock.advance(rng.choice([0.001, 0.013, 0.099, 0.37, 1.03]) * rng.uniform(0.5, 1.5))
        states.append(bench.read())
    for _ in range(50):
        begin, end = sorted(rng.sample(states, 2))
        off_j = end.totals[f"gpu:{A}"].uj / 1e6 - begin.totals[f"gpu:{A}"].uj / 1e6 - bench.true_j(A, begin, end)
        assert abs(off_j) <= 700 * QUANTUM_S + MILLIJOULE
    assert bench.report(states[0], states[-1])[f"gpu:{A}"].flags == ()


def test_its_uncertainty_covers_a_steady_boards_quanta() -> None:
    bench = Bench(FakeBoard(A, power_w=400.0))
    bench.clock.advance(0.099)
    begin = bench.read()
    bench.clock.advance(0.902)  # sees ten updates where nine and a bit have passed
    end = bench.read()
    reading = bench.report(begin, end)[f"gpu:{A}"]
    assert reading.energy_j is not None
    assert reading.uncertainty_j is not None
    assert 0 < abs(reading.energy_j - bench.true_j(A, begin, end)) <= reading.uncertainty_j


@pytest.mark.parametrize("seed", range(10))
def test_a_counter_that_starts_anew_is_flagged_and_nothing_is_made_up(seed: int) -> None:
    rng = random.Random(seed)
    bench = Bench(FakeBoard(A, power_w=300.0))
    begin, resets = bench.read(), 0
    for i in range(60):
        bench.clock.advance(rng.uniform(0.2, 0.9))
        if i % 17 == 8:
            bench.nvml.reset_counter(A)
            resets += 1
        bench.clock.advance(0.1)
        end = bench.read("tick")
    reading = bench.report(begin, end)[f"gpu:{A}"]
    assert "reset" in reading.flags
    assert reading.energy_j is not None
    lost_j, true_j = 300 * reading.lost_s, bench.true_j(A, begin, end)
    slack_j = 300 * QUANTUM_S + MILLIJOULE  # of each stretch between two resets
    assert true_j - lost_j - (resets + 1) * slack_j <= reading.energy_j <= true_j + slack_j
    assert resets * 0.3 <= reading.lost_s <= resets * 1.0
    assert reading.coverage == pytest.approx(1 - reading.lost_s / (end.t_s - begin.t_s))


def test_a_failed_reading_loses_nothing() -> None:
    bench = Bench(FakeBoard(A, power_w=[(T0, 80.0), (T0 + 4.0, 500.0)]))
    begin = bench.read()
    for _ in range(4):
        bench.nvml.fail_next(A, "nvmlDeviceGetTotalEnergyConsumption")
        bench.clock.advance(1.0)
        assert bench.sensor.read().uj == {}
        bench.nvml.fail_next(A, "nvmlDeviceGetTotalEnergyConsumption")
        bench.read()
        bench.clock.advance(1.0)
        end = bench.read()
    reading = bench.report(begin, end)[f"gpu:{A}"]
    assert reading.energy_j == pytest.approx(4 * 80 + 4 * 500)
    assert reading.coverage == 1.0
    assert reading.flags == ("read_error",)


def test_a_board_that_falls_off_the_bus_leaves_the_others_alone() -> None:
    bench = Bench(FakeBoard(A, power_w=200.0), FakeBoard(B, power_w=100.0))
    begin = bench.read()
    bench.clock.advance(5.0)
    bench.read("tick")
    bench.nvml.lose(B)
    bench.clock.advance(5.0)
    values = bench.sensor.read("tick")
    assert values.flags == {f"gpu:{B}": ("read_error", "gpu_lost")}
    assert set(values.uj) == set(values.w) == set(values.memory) == {f"gpu:{A}"}
    readings = bench.report(begin, bench.read())
    assert readings[f"gpu:{A}"].energy_j == pytest.approx(2000.0)
    assert readings[f"gpu:{A}"].flags == ()
    assert readings[f"gpu:{B}"].energy_j == pytest.approx(500.0)
    assert readings[f"gpu:{B}"].coverage == pytest.approx(0.5)
    assert {"read_error", "gpu_lost", "unread_edge"} <= set(readings[f"gpu:{B}"].flags)


def test_boards_named_in_another_order_keep_their_own_joules() -> None:
    bench = Bench(FakeBoard(A, power_w=500.0), FakeBoard(B, power_w=50.0), CUDA_VISIBLE_DEVICES=f"{B},{A}")
    assert list(bench.channels) == [f"gpu:{B}", f"gpu:{A}"]
    readings = bench.run(10.0)
    assert readings[f"gpu:{A}"].energy_j == pytest.approx(5000.0)
    assert readings[f"gpu:{B}"].energy_j == pytest.approx(500.0)
    assert A in readings[f"gpu:{A}"].device


# Powers


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("late_s", [0.0, 0.037, 0.081])
@pytest.mark.parametrize("module_scope", [False, True])
def test_an_integral_is_right_to_half_a_percent(script: str, late_s: float, module_scope: bool) -> None:
    power_w, duration_s = SCRIPTS[script]
    bench = Bench(FakeBoard(A, power_w=power_w, has_counter=False, module_scope_only=module_scope))
    bench.clock.advance(late_s)
    begin_s = bench.clock()
    reading = bench.run(duration_s)[f"gpu:{A}"]
    assert reading.provenance == "integrated"
    assert reading.energy_j == pytest.approx(bench.nvml.true_j(A, begin_s, bench.clock()), rel=5e-3)
    assert reading.coverage == pytest.approx(1.0)
    assert reading.flags == (("module_scope",) if module_scope else ())


def test_an_average_is_right_where_the_load_is_steady_and_says_so_where_the_window_is_too_short_for_it() -> None:
    board = FakeBoard(A, power_w=250.0, arch=AMPERE, name="NVIDIA RTX A6000", averaging_s=1.0)
    board.has_counter = board.has_instant = False
    bench = Bench(board)
    assert bench.channels[f"gpu:{A}"].averaging_s == 1.0
    assert bench.run(30.0)[f"gpu:{A}"].energy_j == pytest.approx(250.0 * 30)
    assert "short_window" not in bench.run(3.1)[f"gpu:{A}"].flags
    assert "short_window" in bench.run(2.9)[f"gpu:{A}"].flags


SOURCES: dict[str, tuple[FakeBoard, str, float, tuple[str, ...]]] = {
    "now, of the GPU": (FakeBoard(A), "NVML_FI_DEV_POWER_INSTANT (scope GPU)", 0.0, ()),
    "now, of the module": (
        FakeBoard(A, module_scope_only=True), "NVML_FI_DEV_POWER_INSTANT (scope MODULE)", 0.0, ("module_scope",)
    ),
    "average": (FakeBoard(A, has_instant=False), "nvmlDeviceGetPowerUsage", 1.0, ()),
    "average, GA102": (
        FakeBoard(A, name="NVIDIA A10", arch=AMPERE, has_instant=False), "nvmlDeviceGetPowerUsage", 1.0, ()
    ),
    "now, GA100": (
        FakeBoard(A, name="NVIDIA A100-SXM4-80GB", arch=AMPERE, has_instant=False), "nvmlDeviceGetPowerUsage", 0.0, ()
    ),
    "now, Pascal": (FakeBoard(A, arch=PASCAL, has_instant=False), "nvmlDeviceGetPowerUsage", 0.0, ()),
}  # fmt: skip


@pytest.mark.parametrize("case", SOURCES)
def test_a_board_without_a_counter_says_what_is_integrated(case: str) -> None:
    board, what, averaging_s, flags = SOURCES[case]
    board.has_counter = False
    bench = Bench(board)
    channel = bench.channels[f"gpu:{A}"]
    assert (channel.provenance, channel.averaging_s) == ("integrated", averaging_s)
    assert channel.reason == f"no energy counter: integral of {what}"
    assert bench.sensor.read("powers").flags.get(channel.id, ()) == flags
    assert bench.sensor.read("edge").w == {channel.id: 100.0}


def test_the_gpu_goes_before_the_module_that_it_is_in() -> None:
    class Module(FakeNvml):
        def _field(self, board: FakeBoard, field: int, scope: int) -> SimpleNamespace:
            answer: SimpleNamespace = super()._field(board, field, 0)
            answer.value.uiVal += 400_000 * scope
            return answer

    bench = Bench(nvml=Module(FakeClock(), [FakeBoard(A, has_counter=False)]))
    values = bench.sensor.read("powers")
    assert (values.w, values.flags) == ({f"gpu:{A}": 100.0}, {})


def test_a_power_that_fails_later_is_not_a_power_of_nothing() -> None:
    bench = Bench(FakeBoard(A, has_counter=False))
    bench.nvml.boards[A].has_instant = False
    values = bench.sensor.read("powers")
    assert (values.w, values.flags) == ({}, {f"gpu:{A}": ("read_error",)})


def test_a_power_of_nothing_at_all_is_no_answer() -> None:
    class Silent(FakeNvml):
        def nvmlDeviceGetPowerUsage(self, handle: FakeHandle) -> int:
            return 0

    nvml = Silent(FakeClock(), [FakeBoard(A, has_counter=False, has_instant=False)])
    assert only(Nvml(nvml, environ={}).open()).provenance == "absent"


def test_a_second_opinion_at_the_meters_pace_agrees_on_bursts_that_it_cannot_see() -> None:
    bench = Bench(FakeBoard(A, power_w=BURSTS, averaging_s=1.0))
    reading = bench.run(60.0)[f"gpu:{A}"]
    assert reading.energy_j == pytest.approx(20 * (0.5 * 300 + 2.5 * 60))
    assert reading.integral_j == pytest.approx(reading.energy_j, rel=0.05)
    assert reading.flags == ()


def test_a_counter_that_tells_half_is_found_out_by_the_second_opinion() -> None:
    class Halved(FakeNvml):
        def nvmlDeviceGetTotalEnergyConsumption(self, handle: FakeHandle) -> int:
            return super().nvmlDeviceGetTotalEnergyConsumption(handle) // 2

    bench = Bench(nvml=Halved(FakeClock(), [FakeBoard(A, power_w=300.0)]))
    assert bench.run(20.0)[f"gpu:{A}"].flags == ("counter_disagrees",)


def test_a_module_with_its_cpu_is_no_second_opinion_on_a_gpus_counter() -> None:
    bench = Bench(FakeBoard(A, module_scope_only=True))
    assert bench.channels[f"gpu:{A}"].provenance == "counter"
    bench.nvml.calls.clear()
    assert set(bench.sensor.read().w) == {f"gpu:{A}"}
    assert bench.nvml.calls["nvmlDeviceGetPowerUsage"] == 1
    assert bench.nvml.calls["nvmlDeviceGetFieldValues"] == 0


# Calls of the driver


def test_an_edge_costs_one_call_of_the_driver_per_board() -> None:
    bench = Bench(FakeBoard(A), FakeBoard(B, has_counter=False))
    bench.nvml.calls.clear()
    values = bench.sensor.read("edge")
    assert bench.nvml.calls == {"nvmlDeviceGetTotalEnergyConsumption": 1, "nvmlDeviceGetFieldValues": 1}
    assert (set(values.uj), set(values.w), values.memory) == ({f"gpu:{A}"}, {f"gpu:{B}"}, {})


def test_powers_are_read_only_of_boards_without_a_counter() -> None:
    bench = Bench(FakeBoard(A), FakeBoard(B, has_counter=False))
    bench.nvml.calls.clear()
    values = bench.sensor.read("powers")
    assert bench.nvml.calls == {"nvmlDeviceGetFieldValues": 1}
    assert (values.uj, set(values.w), values.memory) == ({}, {f"gpu:{B}"}, {})


def test_a_tick_reads_whole_microjoules_watts_and_bytes() -> None:
    bench = Bench(FakeBoard(A, power_w=123.456, memory_used=3 * 2**30 + 1))
    before = bench.sensor.read().uj[f"gpu:{A}"]
    bench.clock.advance(1.0)
    values = bench.sensor.read()
    assert values.uj[f"gpu:{A}"] - before == 123_456_000
    assert type(values.uj[f"gpu:{A}"]) is int
    assert values.w == {f"gpu:{A}": pytest.approx(123.456)}
    assert values.memory == {f"gpu:{A}": 3 * 2**30 + 1}


def test_a_board_that_does_not_tell_its_memory_is_not_asked_again() -> None:
    clock = FakeClock()
    nvml = FakeNvml(clock, [FakeBoard(A)])
    nvml.fail_next(A, "nvmlDeviceGetMemoryInfo", CONSTANTS["NVML_ERROR_NOT_SUPPORTED"])
    bench = Bench(nvml=nvml)
    values = bench.sensor.read()
    assert (values.memory, values.flags) == ({}, {})
    assert set(values.uj) == {f"gpu:{A}"}


def test_the_highest_power_believed_is_four_times_the_boards_limit() -> None:
    assert Bench(FakeBoard(A, limits_w=(100.0, 350.0))).channels[f"gpu:{A}"].max_w == 1400.0
    nvml = FakeNvml(FakeClock(), [FakeBoard(A)])
    nvml.fail_next(A, "nvmlDeviceGetPowerManagementLimitConstraints", CONSTANTS["NVML_ERROR_NOT_SUPPORTED"])
    assert Bench(nvml=nvml).channels[f"gpu:{A}"].max_w == 4000.0


# Opening and closing


def test_instances_of_one_board_are_that_board_once_and_flagged_to_the_end() -> None:
    migs = ("MIG-11111111-0000-0000-0000-000000000000", "MIG-22222222-0000-0000-0000-000000000000")
    bench = Bench(FakeBoard(A, mig=migs), FakeBoard(B), CUDA_VISIBLE_DEVICES=",".join(migs))
    assert list(bench.channels) == [f"gpu:{A}"]
    reading = bench.run(10.0)[f"gpu:{A}"]
    assert reading.energy_j == pytest.approx(1000.0)
    assert reading.flags == ("shared_board",)


def test_an_assumed_order_is_said_in_every_window() -> None:
    bench = Bench(FakeBoard(A), FakeBoard(B), CUDA_VISIBLE_DEVICES="1")
    assert bench.run(1.0)[f"gpu:{B}"].flags == ("assumed_order",)
    assert bench.run(1.0)[f"gpu:{B}"].flags == ("assumed_order",)


def test_bursts_counted_at_two_edges_need_no_samples() -> None:
    bench = Bench(FakeBoard(A, power_w=BURSTS))
    begin = bench.read()
    bench.clock.advance(60.0)
    reading = bench.report(begin, bench.read())[f"gpu:{A}"]
    assert reading.energy_j == pytest.approx(6000.0, abs=MILLIJOULE)
