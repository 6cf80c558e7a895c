"""Where a run computes: on the processor, or on an NVIDIA board through CUDA.

Data, model and what an optimizer keeps beside its parameters lie there; indices of batches and random generators stay
with the processor, so that a run's batches, initial weights and proposals are the same on both.
"""

from __future__ import annotations

import re
from contextlib import AbstractContextManager, nullcontext

import torch

from experiments.data import Data, Split


def chosen(name: str) -> torch.device:
    """Return the device of a name: `cpu`, `cuda`, or `cuda:1` for the second board.

    Raises:
        ValueError: for another name, or a board that torch cannot use here.
    """
    if re.fullmatch(r"cpu|cuda(:\d+)?", name) is None:
        raise ValueError(f'device must be "cpu", "cuda", or "cuda:1" for the second board, got {name!r}')
    device = torch.device(name)
    if device.type == "cpu":
        return device
    if not torch.cuda.is_available():
        why = "was built without CUDA" if torch.version.cuda is None else "sees no driver or no board"
        raise ValueError(f"device={name}: torch {torch.__version__} {why}; device=cpu does without")
    if device.index is not None and device.index >= torch.cuda.device_count():
        raise ValueError(f"device={name}: there are {torch.cuda.device_count()} boards, numbered from 0")
    return device


def moved(data: Data, device: torch.device) -> Data:
    """Return the data on a device; what is there already is not copied."""
    parts = (data.train, data.validation, data.test)
    return Data(*(Split(part.x.to(device), part.y.to(device)) for part in parts))


def described(device: torch.device) -> str:
    """Return what kind of device it is, for a run's record: no serial number, no name of a machine."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def settle(device: torch.device) -> None:
    """Wait until a board has done what it was given; the processor has nothing to wait for."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def precision(device: torch.device, bfloat16: bool) -> AbstractContextManager[object]:
    """Return a context in which products are computed in bfloat16, or as they are."""
    return torch.autocast(device.type, torch.bfloat16) if bfloat16 else nullcontext()
