"""The fakes tell the truth: exact joules, the kernel's layout, the faults that were asked for, the module's names."""

from __future__ import annotations

import errno
import inspect
import os

import pytest

from tests.energy.fakes import PRESETS, FakeBoard, FakeClock, FakeMachine, FakeNvml, Zone
from tests.energy.fakes.nvml import CONSTANTS, ERRORS


def counter(machine, key):
    fd = machine.open_fd(str(machine.path(key)))
    try:
        return int(machine.pread(fd, 64))
    finally:
        os.close(fd)


def test_the_clock_counts_sleep_apart():
    clock = FakeClock()
    assert (clock(), clock.unix(), clock.asleep()) == (1000.0, 1.7e9, 50.0)
    for _ in range(10):
        clock.advance(0.1)
    clock.suspend(5)
    assert (clock(), clock.unix(), clock.asleep()) == (1001.0, 1.7e9 + 6, 55.0)
    with pytest.raises(ValueError, match="forward"):
        clock.advance(-1)


@pytest.mark.parametrize("preset", [name for name in PRESETS if name not in ("forbidden", "jetson")])
def test_counters_move_by_the_truth(tmp_path, preset):
    machine = FakeMachine(tmp_path, preset)
    before = {key: counter(machine, key) for key in machine.zones}
    for _ in range(7):
        machine.advance(1 / 3)
    for key, zone in machine.zones.items():
        watts = machine.power[zone.mirrors or key]
        assert counter(machine, key) - before[key] == machine.true_uj[key] == int(watts * 7 * 0.333333333 * 1e6 + 0.001)
    assert machine.clock() == pytest.approx(1000 + 7 / 3)


@pytest.mark.parametrize(
    ("preset", "watts"), [("laptop", 30), ("server", 327), ("twodie", 170), ("amd", 68), ("vm", 0)]
)
def test_the_total_counts_every_register_once(tmp_path, preset, watts):
    machine = FakeMachine(tmp_path, preset)
    machine.advance(30)
    assert machine.true_j() == watts * 30


def test_remainders_are_carried(tmp_path):
    machine = FakeMachine(tmp_path)
    machine.power["package-0"] = 0.7
    for _ in range(1000):
        machine.advance(1e-6)
    assert machine.true_uj["package-0"] == 700
    machine.power["pakcage-0"] = 1.0
    with pytest.raises(KeyError, match="pakcage-0"):
        machine.advance(1)


def test_the_layout_is_the_kernels(tmp_path):
    machine = FakeMachine(tmp_path)
    tree = machine.root / "class" / "powercap"
    ids = ["intel-rapl", "intel-rapl-mmio", "intel-rapl-mmio:0", "intel-rapl:0", "intel-rapl:0:0", "intel-rapl:0:1"]
    assert sorted(path.name for path in tree.iterdir()) == [*ids, "intel-rapl:1"]
    assert str((tree / "intel-rapl:0:0").readlink()) == (
        "../../devices/virtual/powercap/intel-rapl/intel-rapl:0/intel-rapl:0:0"
    )
    assert (tree / "intel-rapl:0" / "intel-rapl:0:0" / "name").read_text() == "core\n"
    names = {path.name: (path / "name").read_text().strip() for path in tree.iterdir() if ":" in path.name}
    assert names["intel-rapl-mmio:0"] == names["intel-rapl:0"] == "package-0"
    assert names["intel-rapl:1"] == "psys"
    assert (tree / "intel-rapl:0" / "max_energy_range_uj").read_text() == "262143328850\n"
    assert (tree / "intel-rapl:0" / "constraint_0_max_power_uw").read_text() == "125000000\n"
    many = FakeMachine(tmp_path / "many", [Zone(f"package-{number}", 1.0) for number in range(11)])
    assert many.path("package-10").parent.name == "intel-rapl:a"
    assert not (FakeMachine(tmp_path / "vm", "vm").root / "class" / "powercap").exists()


def test_a_counter_wraps_resets_and_freezes(tmp_path):
    machine = FakeMachine(tmp_path)
    machine.set_counter("package-0", 262143328850 - 10)
    machine.advance(1)
    assert counter(machine, "package-0") == counter(machine, "mmio:package-0") == 30_000_000 - 11
    machine.reset("package-0")
    machine.advance(1)
    assert counter(machine, "package-0") == 30_000_000
    machine.freeze("package-0")
    machine.advance(1)
    assert counter(machine, "package-0") == 30_000_000
    machine.thaw("package-0")
    machine.advance(1)
    assert counter(machine, "package-0") == 60_000_000
    assert machine.true_j("package-0", "mmio:package-0") == 120


def test_reads_fail_as_asked(tmp_path):
    machine = FakeMachine(tmp_path)
    machine.fail_next_read("package-0", times=2)
    machine.fail_always("psys", errno.EINVAL)
    for _ in range(2):
        with pytest.raises(OSError) as failure:  # noqa: PT011
            counter(machine, "package-0")
        assert failure.value.errno == errno.EIO
    counter(machine, "package-0")
    with pytest.raises(OSError, match="Invalid argument"):
        counter(machine, "psys")
    machine.heal("psys")
    counter(machine, "psys")


def test_a_removed_zone_takes_its_children_along(tmp_path):
    machine = FakeMachine(tmp_path)
    fds = {key: machine.open_fd(str(machine.path(key))) for key in ("package-0", "package-0/core", "psys")}
    machine.remove_zone("package-0")
    machine.advance(1)
    for key in ("package-0", "package-0/core"):
        with pytest.raises(OSError, match="No such device"):
            machine.pread(fds[key], 64)
        assert not machine.path(key).parent.is_symlink()
    assert int(machine.pread(fds["psys"], 64)) > 0
    assert machine.true_uj["package-0"] == 30_000_000
    for fd in fds.values():
        os.close(fd)


def test_raw_text_stays_until_healed(tmp_path):
    machine = FakeMachine(tmp_path)
    machine.write_raw("package-0", "max_energy_range_uj", "abc")
    assert machine.path("package-0", "max_energy_range_uj").read_text() == "abc"
    machine.write_raw("package-0", "max_energy_range_uj", None)
    assert not machine.path("package-0", "max_energy_range_uj").exists()
    machine.write_raw("package-0", "energy_uj", "a text that is longer than any counter")
    machine.advance(1)
    assert machine.path("package-0").read_text().startswith("a text")
    machine.heal("package-0")
    assert counter(machine, "package-0") == counter(machine, "mmio:package-0")


def test_a_forbidden_counter_has_a_readable_name(tmp_path):
    machine = FakeMachine(tmp_path, "forbidden")
    path = str(machine.path("package-0"))
    with pytest.raises(PermissionError) as refusal:
        machine.open_fd(path)
    assert (refusal.value.errno, refusal.value.filename) == (errno.EACCES, path)
    fd = machine.open_fd(str(machine.path("package-0", "name")))
    assert machine.pread(fd, 64) == b"package-0\n"
    os.close(fd)


def test_the_jetson_shows_its_power(tmp_path):
    machine = FakeMachine(tmp_path, "jetson")
    machine.power["VDD_SOC"] = 4.0
    machine.advance(10)
    folder = machine.root / "class" / "hwmon" / "hwmon0"
    assert (folder / "name").read_text() == "ina3221\n"
    assert (folder / "in3_label").read_text() == "VDD_SOC\n"
    assert int((folder / "in3_input").read_text()) * int((folder / "curr3_input").read_text()) == 4_000_000
    assert machine.true_j("VDD_SOC") == 40
    machine.fail_next_read("VDD_SOC")
    fd = machine.open_fd(str(machine.path("VDD_SOC", "curr3_input")))
    with pytest.raises(OSError, match="Input/output"):
        machine.pread(fd, 64)
    os.close(fd)


def make_nvml(**settings):
    nvml = FakeNvml(FakeClock(), [FakeBoard("GPU-a", **settings)])
    nvml.nvmlInit()
    return nvml, nvml.nvmlDeviceGetHandleByUUID("GPU-a")


def test_a_board_counts_on_its_grid():
    nvml, board = make_nvml(power_w=[(0.0, 100.0), (1000.25, 300.0)], averaging_s=1.0)
    start = nvml.nvmlDeviceGetTotalEnergyConsumption(board)
    nvml.clock.advance(0.39)
    assert nvml.true_j("GPU-a", 1000.0, 1000.39) == pytest.approx(25 + 42, rel=1e-15)
    assert nvml.nvmlDeviceGetTotalEnergyConsumption(board) - start == 25_000 + 15_000
    assert nvml.nvmlDeviceGetPowerUsage(board) == 110_000
    fields = [nvml.NVML_FI_DEV_POWER_INSTANT, (nvml.NVML_FI_DEV_POWER_INSTANT, nvml.NVML_POWER_SCOPE_MODULE)]
    gpu, module = nvml.nvmlDeviceGetFieldValues(board, fields)
    assert (gpu.nvmlReturn, gpu.value.uiVal) == (0, 300_000)
    assert (module.nvmlReturn, module.value.uiVal) == (nvml.NVML_ERROR_NOT_SUPPORTED, 0)
    nvml.reset_counter("GPU-a")
    nvml.set_power("GPU-a", 50.0)
    nvml.clock.advance(1.0)
    assert nvml.nvmlDeviceGetTotalEnergyConsumption(board) == 27_000 + 45_500


def test_a_board_fails_as_asked():
    nvml, board = make_nvml(has_counter=False)
    with pytest.raises(nvml.NVMLError_NotSupported) as refusal:
        nvml.nvmlDeviceGetTotalEnergyConsumption(board)
    assert refusal.value.value == nvml.NVML_ERROR_NOT_SUPPORTED
    nvml.fail_next("GPU-a", "nvmlDeviceGetPowerUsage")
    with pytest.raises(nvml.NVMLError_Unknown):
        nvml.nvmlDeviceGetPowerUsage(board)
    assert nvml.nvmlDeviceGetPowerUsage(board) == 100_000
    nvml.lose("GPU-a")
    with pytest.raises(nvml.NVMLError_GpuIsLost):
        nvml.nvmlDeviceGetUUID(board)
    nvml.nvmlShutdown()
    with pytest.raises(nvml.NVMLError_Uninitialized):
        nvml.nvmlDeviceGetCount()
    assert (nvml.inits, nvml.shutdowns, nvml.calls["nvmlDeviceGetPowerUsage"]) == (1, 1, 2)


def test_mig_devices_lead_to_their_board():
    nvml, board = make_nvml(mig=("MIG-x", "MIG-y"))
    assert nvml.nvmlDeviceGetMigMode(board) == [1, 1]
    child = nvml.nvmlDeviceGetMigDeviceHandleByIndex(board, 1)
    assert nvml.nvmlDeviceGetUUID(child) == "MIG-y"
    assert nvml.nvmlDeviceIsMigDeviceHandle(child)
    assert not nvml.nvmlDeviceIsMigDeviceHandle(board)
    assert nvml.nvmlDeviceGetUUID(nvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(child)) == "GPU-a"
    with pytest.raises(nvml.NVMLError_NotSupported):
        nvml.nvmlDeviceGetPowerUsage(child)
    with pytest.raises(nvml.NVMLError_NotFound):
        nvml.nvmlDeviceGetMigDeviceHandleByIndex(board, 2)


def test_names_are_those_of_the_package():
    real = pytest.importorskip("pynvml")
    for name, value in CONSTANTS.items():
        assert getattr(real, name) == value
    for code, error in ERRORS.items():
        assert type(real.NVMLError(code)).__name__ == error.__name__ == type(FakeNvml.NVMLError(code)).__name__
    for name, function in inspect.getmembers(FakeNvml, inspect.isfunction):
        if name.startswith("nvml"):
            arguments = inspect.signature(function).parameters
            assert len(inspect.signature(getattr(real, name)).parameters) == len(arguments) - 1, name
