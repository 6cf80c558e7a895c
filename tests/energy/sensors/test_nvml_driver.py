"""The driver is opened and closed in pairs; what it cannot do is said, never raised."""

import math
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from mcmcopt.energy.sensors import gpus as gpus_module
from mcmcopt.energy.sensors import nvml as nvml_module
from mcmcopt.energy.sensors.nvml import Nvml
from tests.energy.fakes.clock import FakeClock
from tests.energy.fakes.nvml import CONSTANTS, FakeBoard, FakeNvml
from tests.energy.sensors.bench import A, B, Bench, only


def test_every_start_of_nvml_is_shut_down_once() -> None:
    nvml = FakeNvml(FakeClock(), [FakeBoard(A)])
    sensor = Nvml(nvml, environ={})
    for i in range(100):
        sensor.open()
        if i % 3 == 0:
            sensor.open()  # without closing
        assert nvml.inits - nvml.shutdowns == 1
        sensor.close()
        sensor.close()
        assert nvml.inits == nvml.shutdowns == nvml.calls["nvmlShutdown"]


def test_what_does_not_stay_open_is_shut_down_at_once() -> None:
    for boards, gpus in ([], None), ([FakeBoard(A)], ()), ([FakeBoard(A)], (7,)):
        nvml = FakeNvml(FakeClock(), boards)
        if gpus == (7,):
            with pytest.raises(ValueError, match="7"):
                Nvml(nvml, gpus, {}).open()
        else:
            assert only(Nvml(nvml, gpus, {}).open()).provenance == "absent"
        assert nvml.inits == nvml.shutdowns == 1


def test_a_forked_child_lets_go_without_a_word_to_the_driver() -> None:
    bench = Bench(FakeBoard(A))
    calls = bench.nvml.calls.copy()
    bench.sensor.forget()
    bench.sensor.close()
    assert bench.sensor.read() == Nvml(bench.nvml).read()
    assert bench.nvml.calls == calls


def test_a_driver_that_somebody_else_shut_down_can_be_closed() -> None:
    bench = Bench(FakeBoard(A))
    bench.nvml.nvmlShutdown()
    assert bench.sensor.read().flags == {f"gpu:{A}": ("read_error",)}
    bench.sensor.close()


@pytest.mark.parametrize(
    ("error", "word"),
    [
        ("NVML_ERROR_LIBRARY_NOT_FOUND", "libnvidia-ml"),
        ("NVML_ERROR_DRIVER_NOT_LOADED", "not loaded"),
        ("NVML_ERROR_NO_PERMISSION", "permission"),
        ("NVML_ERROR_UNKNOWN", "999"),
    ],
)
def test_a_driver_that_cannot_be_used_is_absent_with_its_reason(error: str, word: str) -> None:
    nvml = FakeNvml(FakeClock(), [FakeBoard(A)], init_error=CONSTANTS[error])
    sensor = Nvml(nvml, environ={})
    channel = only(sensor.open())
    assert (channel.kind, channel.provenance) == ("gpu", "absent")
    assert word in channel.reason
    assert sensor.read() == Nvml(nvml).read()
    sensor.close()
    assert nvml.calls == {"nvmlInit": 1}


def test_a_board_that_tells_nothing_is_absent_with_its_reason() -> None:
    nvml = FakeNvml(FakeClock(), [FakeBoard(A, has_counter=False, has_instant=False), FakeBoard(B)])
    nvml.fail_next(A, "nvmlDeviceGetPowerUsage", CONSTANTS["NVML_ERROR_NOT_SUPPORTED"])
    bench = Bench(nvml=nvml)
    assert [channel.provenance for channel in bench.channels.values()] == ["absent", "counter"]
    assert "neither" in bench.channels[f"gpu:{A}"].reason
    assert set(bench.sensor.read().uj) == {f"gpu:{B}"}


def test_a_counter_that_stumbles_when_it_is_first_tried_is_still_a_counter() -> None:
    nvml = FakeNvml(FakeClock(), [FakeBoard(A, power_w=300.0)])
    nvml.fail_next(A, "nvmlDeviceGetTotalEnergyConsumption", CONSTANTS["NVML_ERROR_UNKNOWN"])
    reading = Bench(nvml=nvml).run(10.0)[f"gpu:{A}"]
    assert reading.provenance == "counter"
    assert reading.energy_j == pytest.approx(3000.0)


def test_a_lost_board_is_absent_and_others_are_not() -> None:
    nvml = FakeNvml(FakeClock(), [FakeBoard(A), FakeBoard(B)])
    nvml.lose(A)
    channels = Nvml(nvml, environ={}).open()
    assert [channel.provenance for channel in channels] == ["absent", "counter"]
    assert "cannot be opened" in channels[0].reason


@pytest.mark.parametrize("fault", [RuntimeError("out of luck"), UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad name")])
@pytest.mark.parametrize("function", ["nvmlInit", "nvmlDeviceGetCount", "nvmlDeviceGetName", "nvmlDeviceGetMemoryInfo"])
def test_whatever_a_driver_does_opening_does_not_raise(
    monkeypatch: pytest.MonkeyPatch, fault: Exception, function: str
) -> None:
    def fail(*_: object) -> None:
        raise fault

    nvml = FakeNvml(FakeClock(), [FakeBoard(A)])
    monkeypatch.setattr(nvml, function, fail)
    sensor = Nvml(nvml, environ={})
    if only(sensor.open()).provenance == "absent":
        assert nvml.inits == nvml.shutdowns
    sensor.close()
    assert nvml.inits == nvml.shutdowns


# The package


def test_a_missing_package_is_absent_with_the_line_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    channel = only(Nvml(environ={}).open())
    assert channel.provenance == "absent"
    assert "pip install nvidia-ml-py" in channel.reason


def test_the_abandoned_package_is_told_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    other = SimpleNamespace(nvmlInit=lambda: pytest.fail("used it"), __file__="/somewhere/pynvml/__init__.py")
    monkeypatch.setitem(sys.modules, "pynvml", other)
    channel = only(Nvml(environ={}).open())
    assert channel.provenance == "absent"
    assert "abandoned package pynvml (/somewhere/pynvml/__init__.py)" in channel.reason
    assert "pip uninstall pynvml" in channel.reason


def test_the_official_package_has_every_name_that_is_used() -> None:
    pynvml = pytest.importorskip("pynvml")
    used = set()
    for module in nvml_module, gpus_module:
        code = Path(str(module.__file__)).read_text().split('"""', 2)[2]
        used |= set(re.findall(r'nvml\.(\w+)\(|"((?:nvml[A-Z]|NVML_)\w*[a-zA-Z])"', code))
    names = {name for pair in used for name in pair if name and name[:4] in ("nvml", "NVML")}
    names |= {f"NVML_ERROR_{name}" for name in ("NOT_SUPPORTED", "NO_PERMISSION", "FUNCTION_NOT_FOUND", "GPU_IS_LOST")}
    names |= {"NVML_POWER_SCOPE_GPU", "NVML_POWER_SCOPE_MODULE"}
    assert len(names) > 15
    assert [name for name in sorted(names) if not hasattr(pynvml, name)] == []
    used_constants = [name for name in names if name.startswith("NVML_") and name in CONSTANTS]
    assert {name: CONSTANTS[name] for name in used_constants} == {
        name: getattr(pynvml, name) for name in used_constants
    }


def test_the_official_package_gives_a_channel_whatever_the_machine_is() -> None:
    pytest.importorskip("pynvml")
    sensor = Nvml()
    channels = sensor.open()
    assert channels
    assert all(channel.kind == "gpu" and (channel.provenance != "absent" or channel.reason) for channel in channels)
    assert all(math.isfinite(w) for w in sensor.read().w.values())
    sensor.close()


# MIG
