"""An object that looks like the module `pynvml` (package nvidia-ml-py) over boards whose true joules are known."""

from __future__ import annotations

import ctypes
import string
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from tests.energy.fakes.clock import FakeClock, to_ns

CONSTANTS = {
    "NVML_SUCCESS": 0,
    "NVML_ERROR_UNINITIALIZED": 1,
    "NVML_ERROR_INVALID_ARGUMENT": 2,
    "NVML_ERROR_NOT_SUPPORTED": 3,
    "NVML_ERROR_NO_PERMISSION": 4,
    "NVML_ERROR_NOT_FOUND": 6,
    "NVML_ERROR_DRIVER_NOT_LOADED": 9,
    "NVML_ERROR_LIBRARY_NOT_FOUND": 12,
    "NVML_ERROR_FUNCTION_NOT_FOUND": 13,
    "NVML_ERROR_GPU_IS_LOST": 15,
    "NVML_ERROR_UNKNOWN": 999,
    "NVML_FI_DEV_POWER_AVERAGE": 185,
    "NVML_FI_DEV_POWER_INSTANT": 186,
    "NVML_POWER_SCOPE_GPU": 0,
    "NVML_POWER_SCOPE_MODULE": 1,
    "NVML_POWER_SCOPE_MEMORY": 2,
    "NVML_DEVICE_ARCH_PASCAL": 4,
    "NVML_DEVICE_ARCH_VOLTA": 5,
    "NVML_DEVICE_ARCH_TURING": 6,
    "NVML_DEVICE_ARCH_AMPERE": 7,
    "NVML_DEVICE_ARCH_ADA": 8,
    "NVML_DEVICE_ARCH_HOPPER": 9,
    "NVML_DEVICE_ARCH_BLACKWELL": 10,
    "NVML_DEVICE_ARCH_UNKNOWN": 0xFFFFFFFF,
    "NVML_DEVICE_MIG_DISABLE": 0,
    "NVML_DEVICE_MIG_ENABLE": 1,
}


class NVMLError(Exception):
    """Any error of NVML; `NVMLError(code)` is an instance of that code's own subclass."""

    value: int

    def __new__(cls, value: int | None = None) -> NVMLError:
        error: NVMLError = Exception.__new__(ERRORS.get(value, cls) if value is not None else cls)
        if value is not None:
            error.value = value
        return error

    def __str__(self) -> str:
        return f"NVML error {self.value}"

    def __eq__(self, other: object) -> bool:
        return self.value == getattr(other, "value", None)

    __hash__ = None  # type: ignore[assignment]  # as in the real package, whose errors define only __eq__


ERRORS: dict[int, type[NVMLError]] = {}
for _name, _code in CONSTANTS.items():
    if _name.startswith("NVML_ERROR_"):
        _words = string.capwords(_name.removeprefix("NVML_ERROR_"), "_").replace("_", "")
        ERRORS[_code] = type(f"NVMLError_{_words}", (NVMLError,), {"value": _code})


@dataclass
class FakeBoard:
    """One GPU; its power is a constant or a list of (from this monotonic second on, watts), the first also before."""

    uuid: str = "GPU-00000000-0000-0000-0000-000000000000"
    name: str = "NVIDIA H100 80GB HBM3"
    arch: int = CONSTANTS["NVML_DEVICE_ARCH_HOPPER"]
    power_w: float | Sequence[tuple[float, float]] = 100.0
    step_s: float = 0.1  # counter and power change only at multiples of it; 0: always
    averaging_s: float = 0.0  # what nvmlDeviceGetPowerUsage averages over; 0: nothing
    has_counter: bool = True
    has_instant: bool = True
    module_scope_only: bool = False  # POWER_INSTANT and POWER_AVERAGE answer scope MODULE instead of GPU
    mig: tuple[str, ...] | None = None  # UUIDs of its MIG devices; (): capable but off; None: not capable
    memory_used: int = 2 * 2**30
    memory_total: int = 80 * 2**30
    limits_w: tuple[float, float] = (100.0, 700.0)

    def __post_init__(self) -> None:
        power = [(0.0, self.power_w)] if isinstance(self.power_w, int | float) else list(self.power_w)
        self.segments = [(to_ns(start), round(watts * 1e3)) for start, watts in power]  # ns, mW
        if self.segments != sorted(self.segments) or not self.segments:
            raise ValueError(f"power_w is a list of (second, watts) in the order of time, got {self.power_w}")

    def picojoules(self, start: int, end: int) -> int:
        """Exact integral of the power in mW over [start, end] in ns."""
        total = 0
        for number, (since, milliwatts) in enumerate(self.segments):
            left = start if number == 0 else max(start, since)
            right = min(end, self.segments[number + 1][0]) if number + 1 < len(self.segments) else end
            total += milliwatts * max(0, right - left)
        return total

    def milliwatts(self, ns: int) -> int:
        """Power at an instant."""
        return next((power for since, power in reversed(self.segments) if since <= ns), self.segments[0][1])


class FakeHandle:
    """An opaque handle: a new one with every call, and equal to no other, as ctypes pointers are."""

    def __init__(self, board: FakeBoard, mig: str | None = None):
        self.board, self.mig = board, mig


class FakeNvml:
    """What a caller of `pynvml` sees; `calls` counts calls by name, `inits` and `shutdowns` those that succeeded."""

    NVMLError = NVMLError

    def __init__(self, clock: FakeClock, boards: Sequence[FakeBoard] = (), init_error: int | None = None):
        self.clock, self.boards, self.init_error = clock, {board.uuid: board for board in boards}, init_error
        self.inits = self.shutdowns = 0
        self.calls: Counter[str] = Counter()
        self._since = dict.fromkeys(self.boards, 0)  # ns at which the energy counter stood at 0
        self._lost: set[str] = set()
        self._failures: dict[tuple[str, str], list[int]] = {}
        for name, value in CONSTANTS.items():
            setattr(self, name, value)
        for error in ERRORS.values():
            setattr(self, error.__name__, error)

    # Truth and faults

    def true_j(self, uuid: str, t0: float, t1: float) -> float:
        """Joules of a board between two monotonic seconds."""
        return self.boards[uuid].picojoules(to_ns(t0), to_ns(t1)) / 1e12

    def set_power(self, uuid: str, watts: float) -> None:
        """The board draws `watts` from now on."""
        segments = self.boards[uuid].segments
        if segments[-1][0] > self.clock.ns:
            raise ValueError(f"the power of {uuid} is scripted beyond now, {self.clock()} s: {segments}")
        segments.append((self.clock.ns, round(watts * 1e3)))

    def reset_counter(self, uuid: str) -> None:
        """The energy counter restarts at 0, as after a reload of the driver."""
        self._since[uuid] = self._grid(self.boards[uuid])

    def lose(self, uuid: str) -> None:
        """Every call about the board raises GpuIsLost from now on."""
        self._lost.add(self.boards[uuid].uuid)

    def fail_next(self, uuid: str, function: str, error: int = 999, times: int = 1) -> None:
        """The next `times` calls of the function about the board raise."""
        self._failures[self.boards[uuid].uuid, function] = [error] * times

    # The module's functions

    def nvmlInit(self) -> None:
        self.calls["nvmlInit"] += 1
        if self.init_error is not None:
            raise NVMLError(self.init_error)
        self.inits += 1

    def nvmlShutdown(self) -> None:
        self._count("nvmlShutdown")
        self.shutdowns += 1

    def nvmlSystemGetDriverVersion(self) -> str:
        self._count("nvmlSystemGetDriverVersion")
        return "580.65.06"

    def nvmlDeviceGetCount(self) -> int:
        self._count("nvmlDeviceGetCount")
        return len(self.boards)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> FakeHandle:
        boards = list(self.boards.values())
        if not 0 <= index < len(boards):
            self._count("nvmlDeviceGetHandleByIndex")
            raise NVMLError(2)
        return self._handle("nvmlDeviceGetHandleByIndex", boards[index])

    def nvmlDeviceGetHandleByUUID(self, uuid: str | bytes) -> FakeHandle:
        text = uuid.decode() if isinstance(uuid, bytes) else uuid
        for board in self.boards.values():
            if text == board.uuid or text in (board.mig or ()):
                return self._handle("nvmlDeviceGetHandleByUUID", board, None if text == board.uuid else text)
        self._count("nvmlDeviceGetHandleByUUID")
        raise NVMLError(6)

    def nvmlDeviceGetUUID(self, handle: FakeHandle) -> str:
        board = self._enter("nvmlDeviceGetUUID", handle)
        return handle.mig or board.uuid

    def nvmlDeviceGetName(self, handle: FakeHandle) -> str:
        return self._enter("nvmlDeviceGetName", handle).name

    def nvmlDeviceGetArchitecture(self, handle: FakeHandle) -> int:
        return self._enter("nvmlDeviceGetArchitecture", handle).arch

    def nvmlDeviceGetCudaComputeCapability(self, handle: FakeHandle) -> tuple[int, int]:
        """Major and minor; of the Ampere chips, only A100's is 8.0."""
        board = self._enter("nvmlDeviceGetCudaComputeCapability", handle)
        if board.arch == CONSTANTS["NVML_DEVICE_ARCH_AMPERE"]:
            return (8, 0) if "A100" in board.name else (8, 6)
        return {4: (6, 0), 5: (7, 0), 6: (7, 5), 8: (8, 9), 9: (9, 0), 10: (10, 0)}[board.arch]

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: FakeHandle) -> int:
        """Millijoules since the counter stood at 0."""
        board = self._whole("nvmlDeviceGetTotalEnergyConsumption", handle)
        if not board.has_counter:
            raise NVMLError(3)
        return board.picojoules(self._since[board.uuid], self._grid(board)) // 10**9

    def nvmlDeviceGetPowerUsage(self, handle: FakeHandle) -> int:
        """Milliwatts, the mean of the last `averaging_s`."""
        board = self._whole("nvmlDeviceGetPowerUsage", handle)
        return self._mean_mw(board, board.averaging_s)

    def nvmlDeviceGetFieldValues(self, handle: FakeHandle, field_ids: Sequence[int | tuple[int, int]]) -> list[Any]:
        """One struct for each field id or (field id, scope); a failed one has its code, and 0 for a value."""
        board = self._whole("nvmlDeviceGetFieldValues", handle)
        pairs = [(field, 0) if isinstance(field, int) else field for field in field_ids]
        return [self._field(board, field, scope) for field, scope in pairs]

    def nvmlDeviceGetPowerManagementLimitConstraints(self, handle: FakeHandle) -> list[int]:
        """Smallest and largest power limit in milliwatts."""
        board = self._whole("nvmlDeviceGetPowerManagementLimitConstraints", handle)
        return [round(watts * 1e3) for watts in board.limits_w]

    def nvmlDeviceGetMemoryInfo(self, handle: FakeHandle, version: int | None = None) -> Any:
        board = self._enter("nvmlDeviceGetMemoryInfo", handle)
        used, total = board.memory_used, board.memory_total
        return SimpleNamespace(total=total, free=total - used, used=used)

    def nvmlDeviceGetMigMode(self, device: FakeHandle) -> list[int]:
        """Present and pending mode."""
        board = self._whole("nvmlDeviceGetMigMode", device)
        if board.mig is None:
            raise NVMLError(3)
        return [int(bool(board.mig))] * 2

    def nvmlDeviceGetMaxMigDeviceCount(self, device: FakeHandle) -> int:
        board = self._whole("nvmlDeviceGetMaxMigDeviceCount", device)
        return max(7, len(board.mig)) if board.mig else 0

    def nvmlDeviceGetMigDeviceHandleByIndex(self, device: FakeHandle, index: int) -> FakeHandle:
        board = self._whole("nvmlDeviceGetMigDeviceHandleByIndex", device)
        if not board.mig:
            raise NVMLError(3)
        if not 0 <= index < len(board.mig):
            raise NVMLError(6)
        return FakeHandle(board, board.mig[index])

    def nvmlDeviceGetDeviceHandleFromMigDeviceHandle(self, mig_device: FakeHandle) -> FakeHandle:
        board = self._enter("nvmlDeviceGetDeviceHandleFromMigDeviceHandle", mig_device)
        if mig_device.mig is None:
            raise NVMLError(2)
        return FakeHandle(board)

    def nvmlDeviceIsMigDeviceHandle(self, device: FakeHandle) -> ctypes.c_uint:
        """A `c_uint`, as the real one returns: true in a condition, equal to no int."""
        self._enter("nvmlDeviceIsMigDeviceHandle", device)
        return ctypes.c_uint(device.mig is not None)

    def _count(self, function: str) -> None:
        self.calls[function] += 1
        if self.inits <= self.shutdowns:
            raise NVMLError(1)

    def _enter(self, function: str, handle: FakeHandle) -> FakeBoard:
        self._count(function)
        if handle.board.uuid in self._lost:
            raise NVMLError(15)
        failures = self._failures.get((handle.board.uuid, function))
        if failures:
            raise NVMLError(failures.pop())
        return handle.board

    def _whole(self, function: str, handle: FakeHandle) -> FakeBoard:
        board = self._enter(function, handle)
        if handle.mig is not None:
            raise NVMLError(3)
        return board

    def _handle(self, function: str, board: FakeBoard, mig: str | None = None) -> FakeHandle:
        handle = FakeHandle(board, mig)
        self._enter(function, handle)
        return handle

    def _grid(self, board: FakeBoard) -> int:
        return self.clock.ns - self.clock.ns % (to_ns(board.step_s) or 1)

    def _mean_mw(self, board: FakeBoard, over_s: float) -> int:
        end, over = self._grid(board), to_ns(over_s)
        return round(board.picojoules(end - over, end) / over) if over else board.milliwatts(end)

    def _field(self, board: FakeBoard, field: int, scope: int) -> Any:
        windows = {CONSTANTS["NVML_FI_DEV_POWER_INSTANT"]: 0.0, CONSTANTS["NVML_FI_DEV_POWER_AVERAGE"]: 1.0}
        known = field in windows and board.has_instant and scope == int(board.module_scope_only)
        value = self._mean_mw(board, windows[field]) if known else 0
        code = CONSTANTS["NVML_SUCCESS" if known else "NVML_ERROR_NOT_SUPPORTED"]
        return SimpleNamespace(fieldId=field, scopeId=scope, nvmlReturn=code, value=SimpleNamespace(uiVal=value))
