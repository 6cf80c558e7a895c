"""Which of the machine's NVIDIA boards are ours.

    asked for by name  >  what torch has opened  >  CUDA_VISIBLE_DEVICES  >  all boards

NVML counts boards in the order of their PCI addresses, CUDA by its own guess of speed unless CUDA_DEVICE_ORDER says
PCI_BUS_ID; a board is therefore known by its UUID, and where only a number is given the order is an assumption.  Energy
is a board's: a MIG instance stands for the whole board.  Sources: CUDA C++ Programming Guide, "CUDA Environment
Variables"; PyTorch, torch/cuda/__init__.py, for repeated and mixed identifiers.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

NUMBER = re.compile(r"[+-]?[0-9]+")
"""CUDA reads a number as C's `strtol` does: what follows it is ignored."""
LEGACY_MIG = re.compile(r"MIG-(GPU-[^/]+)/[0-9]+/[0-9]+")
"""Name of a MIG instance before driver 470: board, GPU instance, compute instance."""


@dataclass(frozen=True)
class Board:
    """One board as NVML sees it.

    Args:
        index: NVML's number.
        handle: what NVML's functions take.
        uuid: `GPU-…`; without one, `index-…`.
        name: of its kind.
        migs: UUIDs of its MIG instances.
        divided: whether it is in MIG mode.
        error: why it cannot be opened; empty: it can.
    """

    index: int
    handle: Any
    uuid: str
    name: str
    migs: tuple[str, ...] = ()
    divided: bool = False
    error: str = ""

    def __str__(self) -> str:
        return f"{self.index}: {self.uuid} ({self.name})"


class Choice(NamedTuple):
    """The boards that are ours."""

    boards: tuple[Board, ...]
    assumed_order: bool = False
    """Whether they were known by CUDA's numbers alone."""
    reason: str = ""
    """Why there are none, or why some that were named are not among them."""


def list_boards(nvml: Any) -> tuple[Board, ...]:
    """Return all boards in NVML's order; one that cannot be opened has an error, and keeps its place.

    Raises:
        NVMLError: if they cannot be counted.
    """
    return tuple(_board(nvml, index) for index in range(nvml.nvmlDeviceGetCount()))


def choose(boards: Sequence[Board], gpus: Sequence[int | str] | None, environ: Mapping[str, str]) -> Choice:
    """Return which boards are ours, each once, in the order in which they were named.

    Args:
        boards: all of them.
        gpus: NVML's numbers, or UUIDs of boards or MIG instances or the beginnings of such; None: find out.
        environ: the process's environment.

    Raises:
        ValueError: if one of `gpus` is not there, or could be several.
    """
    if gpus is not None:
        return Choice(_once([_named(gpu, boards) for gpu in gpus]), reason="" if gpus else "gpus=(): none asked for")
    # CUDA numbers only what it can open
    usable = [board for board in boards if not board.error]
    choice = _shown(boards, usable, environ)
    rank = environ.get("LOCAL_RANK", "")
    ranks = environ.get("LOCAL_WORLD_SIZE", environ.get("WORLD_SIZE", "1"))
    if not rank.isdigit() or ranks == "1" or len(choice.boards) < 2:
        return choice
    # each rank measures its own board: the one that torch has made current, or else the rank-th, as everybody does;
    # device 0 is current where nobody has chosen one
    own = torch_uuids(current=True)
    own = None if own == (torch_uuids() or [])[:1] and rank != "0" else own
    found = [b for b in choice.boards if own and {f"GPU-{own[0]}", f"MIG-{own[0]}"} & {b.uuid, *b.migs}]
    if found:
        return Choice(tuple(found), choice.assumed_order)
    return Choice((choice.boards[int(rank) % len(choice.boards)],), assumed_order=True)


def _shown(boards: Sequence[Board], usable: Sequence[Board], environ: Mapping[str, str]) -> Choice:
    """Return the boards that this process can see."""
    uuids = torch_uuids()
    if uuids is not None:
        found = [b for uuid in uuids for b in usable if {f"GPU-{uuid}", f"MIG-{uuid}"} & {b.uuid, *b.migs}]
        if len(found) == len(uuids):
            return Choice(_once(found), reason="" if found else "torch has opened no GPU")
    visible = environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return _visible(visible, usable, environ.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID")
    return Choice(tuple(boards), reason="" if boards else "the driver knows no GPU")


def torch_uuids(current: bool = False) -> list[str] | None:
    """Return the UUIDs, without `GPU-`, of the devices that torch sees; None: it has not looked.

    Neither imports torch nor initialises CUDA.

    Args:
        current: the one alone that is current in this thread.
    """
    cuda = getattr(sys.modules.get("torch"), "cuda", None)
    if cuda is None:
        return None
    try:
        if not cuda.is_initialized():
            return None
        numbers = [cuda.current_device()] if current else range(cuda.device_count())
        return [str(cuda.get_device_properties(i).uuid).removeprefix("GPU-") for i in numbers]
    except Exception:  # a torch without UUIDs, half imported, or with a broken CUDA: the environment is asked instead
        return None


def _visible(visible: str, boards: Sequence[Board], pci_order: bool) -> Choice:
    """Return what CUDA makes of CUDA_VISIBLE_DEVICES: the list ends at its first invalid token.

    As torch reads it, the first token says whether all are numbers, boards or MIG instances, and a device named twice
    leaves none.
    """
    tokens = [token.strip() for token in visible.split(",")]
    kind = next((prefix for prefix in ("GPU-", "MIG-") if tokens[0].startswith(prefix)), "")
    found: list[Board] = []
    seen: set[str] = set()
    reason = ""
    for token in tokens:
        device, board = _device(token, kind, boards)
        if board is None:
            reason = f"CUDA_VISIBLE_DEVICES={visible!r} ends at {token!r}, which is no GPU here"
            break
        if device in seen:
            return Choice((), reason=f"CUDA_VISIBLE_DEVICES={visible!r} names {token!r} twice, which hides every GPU")
        seen.add(device)
        found.append(board)
    ours = _once(found)
    # all of them are the same ones in any order; with MIG, CUDA's numbers are instances'
    assumed = not kind and (any(b.divided for b in boards) or (not pci_order and len(ours) < len(boards)))
    if not visible.strip():
        reason = "CUDA_VISIBLE_DEVICES='' hides every GPU"
    return Choice(ours, assumed and bool(ours), reason)


def _device(token: str, kind: str, boards: Sequence[Board]) -> tuple[str, Board | None]:
    """Return what a token means, told apart from every other device, and its board; None: it is invalid."""
    if not kind:
        match = NUMBER.match(token)
        number = int(match[0]) if match else -1
        return str(number), boards[number] if 0 <= number < len(boards) else None
    if not token.startswith(kind):
        return token, None
    if legacy := LEGACY_MIG.fullmatch(token):
        owners = [board for board in boards if board.divided and board.uuid.startswith(legacy[1])]
        return token, owners[0] if len(owners) == 1 else None
    matches = [(uuid, board) for board in boards for uuid in (board.uuid, *board.migs) if uuid.startswith(token)]
    return matches[0] if len(matches) == 1 else (token, None)


def _named(gpu: int | str, boards: Sequence[Board]) -> Board:
    if isinstance(gpu, int) and not isinstance(gpu, bool):
        found = [board for board in boards if board.index == gpu]
    elif isinstance(gpu, str) and gpu:
        found = [board for board in boards if any(uuid.startswith(gpu) for uuid in (board.uuid, *board.migs))]
        if legacy := LEGACY_MIG.fullmatch(gpu):
            found = [board for board in boards if board.uuid.startswith(legacy[1])]
    else:
        raise ValueError(f"gpus: a GPU is NVML's number or a UUID, got {gpu!r}")
    if len(found) != 1:
        there = ", ".join(map(str, boards)) or "none"
        raise ValueError(f"gpus: {gpu!r} is {'no' if not found else 'more than one'} GPU here; there are: {there}")
    return found[0]


def _once(boards: Sequence[Board]) -> tuple[Board, ...]:
    return tuple({board.index: board for board in boards}.values())


def _board(nvml: Any, index: int) -> Board:
    try:
        handle = nvml.nvmlDeviceGetHandleByIndex(index)
        uuid, name = nvml.nvmlDeviceGetUUID(handle), nvml.nvmlDeviceGetName(handle)
    except nvml.NVMLError as error:
        return Board(index, None, f"index-{index}", "unknown", error=str(error))
    try:
        divided = nvml.nvmlDeviceGetMigMode(handle)[0] == 1  # NVML_DEVICE_MIG_ENABLE
        slots = nvml.nvmlDeviceGetMaxMigDeviceCount(handle) if divided else 0
    except nvml.NVMLError:  # not supported: it cannot be divided
        divided, slots = False, 0
    migs = filter(None, (_mig_uuid(nvml, handle, slot) for slot in range(slots)))
    return Board(index, handle, uuid, name, tuple(migs), divided)


def _mig_uuid(nvml: Any, handle: Any, slot: int) -> str:
    try:
        return str(nvml.nvmlDeviceGetUUID(nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, slot)))
    except nvml.NVMLError:  # an empty slot
        return ""
