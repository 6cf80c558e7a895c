"""NVIDIA boards by NVML: their energy counter, or where they have none the power that is to be integrated.

    nvmlDeviceGetTotalEnergyConsumption    mJ since the driver was loaded, Volta and newer; steps every 20–100 ms
    NVML_FI_DEV_POWER_INSTANT, _AVERAGE    mW now, mW over the last second; of the GPU, or of a module with its CPU
    nvmlDeviceGetPowerUsage                mW over the last second from Ampere on except GA100, mW now before

Energy is a whole board's, whoever uses it: memory and all other processes are in it.  On A100 and H100 the sensor sees
a quarter of the time (arXiv 2312.02741).  Source: NVIDIA, NVML API Reference; package nvidia-ml-py.
"""

from __future__ import annotations

import contextlib
import importlib
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from mcmcopt.energy.sample import Channel, Values
from mcmcopt.energy.sensors.base import Scope
from mcmcopt.energy.sensors.gpus import Board, choose, list_boards

RESOLUTION_S = 0.1
"""The slowest that a counter has been seen to step, and the pace at which powers are to be sampled."""
AVERAGING_S = 1.0
MAX_W = 4000.0
"""Believed where a board does not tell its limit."""
LIMIT_FACTOR = 4
"""Short peaks exceed a board's power limit."""
GA100 = (8, 0)
"""Compute capability of the last chip whose nvmlDeviceGetPowerUsage is not an average."""
INSTALL = "pip install nvidia-ml-py"


class Source(NamedTuple):
    """A way to a board's power."""

    name: str
    watts: Callable[[Any], float]
    """Of a handle; raises NVMLError."""
    averaging_s: float = 0.0
    flags: tuple[str, ...] = ()


class _Gpu(NamedTuple):
    """A board that can be read."""

    id: str
    handle: Any
    counter: bool
    source: Source | None
    memory: tuple[int, ...] | None
    """Arguments of nvmlDeviceGetMemoryInfo after the handle; None: the board does not tell."""
    flags: tuple[str, ...]
    """What is to be said with every reading."""


class Nvml:
    """The NVIDIA boards that this process uses.

    Args:
        nvml: a module like `pynvml`; None: that one, imported when the sensor is opened.
        gpus: NVML's numbers, or UUIDs or the beginnings of such; None: those that torch has opened, or
            CUDA_VISIBLE_DEVICES lets CUDA see, or all.
        environ: the process's environment; None: this one's.
    """

    name = "nvml"

    def __init__(
        self, nvml: Any = None, gpus: Sequence[int | str] | None = None, environ: Mapping[str, str] | None = None
    ) -> None:
        self._given, self._asked = nvml, None if gpus is None else tuple(gpus)
        self._environ = os.environ if environ is None else environ
        self._nvml: Any = None
        self._gpus: tuple[_Gpu, ...] = ()

    def open(self) -> tuple[Channel, ...]:
        """Start NVML, find the boards that are ours and try once what each of them can tell.

        Raises:
            ValueError: if a board that was asked for is not there, though NVML is.
        """
        self.close()
        try:
            nvml = _pynvml() if self._given is None else self._given
        except Exception as error:  # whatever a foreign module does when it is imported, a meter must start
            return _absent(str(error))
        try:
            nvml.nvmlInit()
        except Exception as error:
            return _absent(_refusal(nvml, error))
        self._nvml = nvml
        try:
            boards = list_boards(nvml)
        except Exception as error:
            self.close()
            return _absent(_refusal(nvml, error))
        try:
            choice = choose(boards, self._asked, self._environ)
        except ValueError:
            self.close()
            raise
        found = [self._channel(board, choice.assumed_order) for board in choice.boards]
        self._gpus = tuple(gpu for _, gpu in found if gpu is not None)
        if not self._gpus:
            self.close()  # an open driver keeps boards awake
        return tuple(channel for channel, _ in found) or _absent(choice.reason)

    def read(self, scope: Scope = "tick") -> Values:
        """Read counters (µJ), powers (W) and memory in use (bytes); one call of the driver per board at an edge.

        A board that fails has no further value and the flag `read_error`, and `gpu_lost` if it has fallen off the bus.
        """
        nvml = self._nvml
        uj, w, memory, flags = {}, {}, {}, {}
        for gpu in self._gpus:
            if scope == "powers" and gpu.counter:
                continue
            said = gpu.flags
            try:
                if gpu.counter:
                    uj[gpu.id] = 1000 * nvml.nvmlDeviceGetTotalEnergyConsumption(gpu.handle)
                if gpu.source and (scope == "tick" or not gpu.counter):
                    w[gpu.id] = gpu.source.watts(gpu.handle)
                if scope == "tick" and gpu.memory is not None:
                    memory[gpu.id] = nvml.nvmlDeviceGetMemoryInfo(gpu.handle, *gpu.memory).used
            except nvml.NVMLError as error:
                said += ("read_error",)
                if error.value == nvml.NVML_ERROR_GPU_IS_LOST:
                    said += ("gpu_lost",)
            if said:
                flags[gpu.id] = said
        return Values(uj=uj, w=w, memory=memory, flags=flags)

    def close(self) -> None:
        """Shut NVML down, once for every time that it was started."""
        nvml = self._nvml
        self.forget()
        if nvml is not None:
            with contextlib.suppress(nvml.NVMLError):  # somebody else shut it down too often
                nvml.nvmlShutdown()

    def forget(self) -> None:
        """Drop a forked child's handles: the driver belongs to the parent."""
        self._nvml, self._gpus = None, ()

    def _channel(self, board: Board, assumed_order: bool) -> tuple[Channel, _Gpu | None]:
        nvml, name, device = self._nvml, f"gpu:{board.uuid}", f"{board.name} ({board.uuid})"
        if board.error:
            return Channel(name, "gpu", device, "absent", reason=f"the board cannot be opened: {board.error}"), None
        missing = _missing_counter(nvml, board.handle)
        counter = not missing
        source = _source(nvml, board.handle, second=counter)
        if missing and source is None:
            reason = f"the board tells neither its energy nor its power: {missing}"
            return Channel(name, "gpu", device, "absent", reason=reason), None
        limits = _ask(nvml, "nvmlDeviceGetPowerManagementLimitConstraints", board.handle)
        channel = Channel(
            name,
            "gpu",
            device,
            "counter" if counter else "integrated",
            resolution_s=RESOLUTION_S,
            max_w=LIMIT_FACTOR * limits[1] / 1e3 if limits and limits[1] else MAX_W,
            averaging_s=source.averaging_s if source else 0.0,
            reason="" if counter or source is None else f"no energy counter: integral of {source.name}",
        )
        flags = [flag for flag, on in (("shared_board", board.divided), ("assumed_order", assumed_order)) if on]
        flags += source.flags if source else ()
        return channel, _Gpu(name, board.handle, counter, source, _memory(nvml, board.handle), tuple(flags))


def _missing_counter(nvml: Any, handle: Any) -> str:
    """Return why a board has no energy counter; empty: it has one, though it may fail just now."""
    final = ("NOT_SUPPORTED", "NO_PERMISSION", "FUNCTION_NOT_FOUND", "GPU_IS_LOST")
    try:
        nvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    except nvml.NVMLError as error:
        # any other error is a gap, not a missing sensor
        return str(error) if error.value in [getattr(nvml, f"NVML_ERROR_{name}", None) for name in final] else ""
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


def _source(nvml: Any, handle: Any, *, second: bool) -> Source | None:
    """Return the best way to a board's power that answers; None: there is none.

    Args:
        nvml, handle: of the board.
        second: whether it is a counter's second opinion: sampled at the meter's slow pace, it has to be an average,
            and of the GPU as the counter is.
    """
    capability = _ask(nvml, "nvmlDeviceGetCudaComputeCapability", handle)
    averages = capability is None or tuple(capability) > GA100  # unknown: the cautious answer
    usage = Source(
        "nvmlDeviceGetPowerUsage",
        lambda handle: float(nvml.nvmlDeviceGetPowerUsage(handle)) / 1e3,
        AVERAGING_S if averages else 0.0,
    )
    instant = _field(nvml, "NVML_FI_DEV_POWER_INSTANT", "GPU")
    order: tuple[Source | None, ...]
    if second:
        order = _field(nvml, "NVML_FI_DEV_POWER_AVERAGE", "GPU", AVERAGING_S), usage, instant
    else:
        order = instant, _field(nvml, "NVML_FI_DEV_POWER_INSTANT", "MODULE", flags=("module_scope",)), usage
    return next((source for source in order if source is not None and _answers(source, handle)), None)


def _answers(source: Source, handle: Any) -> bool:
    try:
        return source.watts(handle) > 0  # no board that is on draws nothing
    except Exception:
        return False


def _field(nvml: Any, field: str, scope: str, averaging_s: float = 0.0, flags: tuple[str, ...] = ()) -> Source | None:
    """Return the way through a field value; None: this pynvml does not know the field."""
    what = getattr(nvml, field, None), getattr(nvml, f"NVML_POWER_SCOPE_{scope}", None)
    if None in what:
        return None

    def watts(handle: Any) -> float:
        answer = nvml.nvmlDeviceGetFieldValues(handle, [what])[0]
        if answer.nvmlReturn != nvml.NVML_SUCCESS:
            raise nvml.NVMLError(answer.nvmlReturn)
        return float(answer.value.uiVal) / 1e3

    return Source(f"{field} (scope {scope})", watts, averaging_s, flags)


def _memory(nvml: Any, handle: Any) -> tuple[int, ...] | None:
    """Return how the board is asked for its memory; the second version leaves out what the driver keeps for itself."""
    versions: list[tuple[int, ...]] = [(nvml.nvmlMemory_v2,)] if hasattr(nvml, "nvmlMemory_v2") else []
    answering = (v for v in (*versions, ()) if _ask(nvml, "nvmlDeviceGetMemoryInfo", handle, *v) is not None)
    return next(answering, None)


def _ask(nvml: Any, function: str, *args: Any) -> Any:
    """Return what a function answers; None: not supported, not allowed, or not known to this driver or package."""
    try:
        return getattr(nvml, function)(*args)
    except Exception:
        return None


def _pynvml() -> Any:
    """Return the module of the package nvidia-ml-py.

    Raises:
        ImportError: if it is missing, or something else has its name.
    """
    try:
        pynvml = importlib.import_module("pynvml")
    except ImportError as error:
        raise ImportError(f"the package nvidia-ml-py is missing: {INSTALL}") from error
    if not hasattr(pynvml, "_nvmlGetFunctionPointer"):
        where = getattr(pynvml, "__file__", "somewhere")
        raise ImportError(
            f"the abandoned package pynvml ({where}) hides the official one: pip uninstall pynvml && {INSTALL}"
        )
    return pynvml


def _refusal(nvml: Any, error: Exception) -> str:
    """Return why NVML cannot be used, in words."""
    code = getattr(error, "value", None)
    causes = {
        "NVML_ERROR_LIBRARY_NOT_FOUND": "no NVIDIA driver on this machine: its library libnvidia-ml is not found",
        "NVML_ERROR_DRIVER_NOT_LOADED": "the NVIDIA driver is installed but not loaded (what does nvidia-smi say?)",
        "NVML_ERROR_NO_PERMISSION": "no permission to talk to the NVIDIA driver (/dev/nvidia*)",
    }
    for name, cause in causes.items():
        if code is not None and code == getattr(nvml, name, None):
            return f"{cause}: NVML error {code}"
    return f"NVML failed: {type(error).__name__}: {error}"


def _absent(reason: str) -> tuple[Channel, ...]:
    return (Channel("nvml", "gpu", "none", "absent", reason=reason),)
