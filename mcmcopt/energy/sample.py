"""What sensors deliver: channels, and samples of their counters in whole microjoules and of their powers in watts.

Raw readings only; what they amount to is said by `accounts`, the same way while a meter runs and from its log.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, get_args

Provenance = Literal["counter", "integrated", "estimated", "absent"]
Kind = Literal["cpu_package", "dram", "core", "uncore", "psys", "gpu", "soc", "board"]

DISJOINT: tuple[Kind, ...] = ("cpu_package", "dram", "gpu", "board")
"""Kinds that measure different joules: package contains core and uncore but not dram; psys contains all of them."""

SCHEMA = 1


@dataclass(frozen=True)
class Channel:
    """One thing that is measured, or would be if its sensor were there.

    Args:
        id: such as `rapl:package-0`.
        kind: what it measures.
        device: what the system calls it: a zone's name, a board's UUID.
        provenance: how its joules are known.
        parent: id of the channel that contains it; None: none does.
        range_uj: a counter wraps after this value; None: unknown, or never.
        resolution_s: seconds between two updates of the counter, or between two samples of a power.
        max_w: more than this is not believed; None: anything is.
        averaging_s: a power is the mean over so many seconds before it is read.
        reason: why it is absent, or what an estimate assumes.
        counted: whether it enters the totals; a duplicate, or what another channel contains, does not.
    """

    id: str
    kind: Kind
    device: str
    provenance: Provenance
    parent: str | None = None
    range_uj: int | None = None
    resolution_s: float = 0.0
    max_w: float | None = None
    averaging_s: float = 0.0
    reason: str = ""
    counted: bool = True

    def __post_init__(self) -> None:
        for name, value, allowed in (
            ("kind", self.kind, get_args(Kind)),
            ("provenance", self.provenance, get_args(Provenance)),
        ):
            if value not in allowed:
                raise ValueError(f"channel {self.id}: {name} must be one of {', '.join(allowed)}, got {value!r}")

    @property
    def in_total(self) -> bool:
        """Whether its joules are added to others'."""
        return self.counted and self.kind in DISJOINT and self.provenance != "absent"


@dataclass(frozen=True)
class Values:
    """One reading of a sensor.

    Args:
        uj: counters, µJ, by channel.
        w: powers, W, by channel.
        memory: bytes in use, by channel.
        flags: what was wrong, by channel; a channel without a value has a flag that says why.
        span_s: seconds between its first and its last channel.
    """

    uj: Mapping[str, int] = field(default_factory=dict)
    w: Mapping[str, float] = field(default_factory=dict)
    memory: Mapping[str, int] = field(default_factory=dict)
    flags: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    span_s: float = 0.0


@dataclass(frozen=True)
class Sample:
    """All that was read at one moment.

    Args:
        t_s: monotonic seconds; only differences mean anything.
        unix_s: seconds since 1970, UTC, for a reader and for other machines' clocks.
        uj: counters, µJ, by channel.
        w: powers, W, by channel.
        cpu_s: CPU seconds so far: `process`, this process and its descendants, and `machine`; empty: not looked at.
        memory: bytes in use: `process`, and by channel.
        flags: by channel, or of the whole sample under the empty name.
        mark: the edge of a window that was read here, such as `{"window": "epoch", "edge": "begin"}`; None elsewhere.
        span_s: seconds between the first and the last counter of one sensor.
        late_s: seconds that the whole sample took: a value may be so much younger than `t_s`.
    """

    t_s: float
    unix_s: float
    uj: Mapping[str, int] = field(default_factory=dict)
    w: Mapping[str, float] = field(default_factory=dict)
    cpu_s: Mapping[str, float] = field(default_factory=dict)
    memory: Mapping[str, int] = field(default_factory=dict)
    flags: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    mark: Mapping[str, Any] | None = None
    span_s: float = 0.0
    late_s: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON writes it; what is empty is left out, whole numbers stay whole."""
        out: dict[str, Any] = {"t_s": self.t_s, "unix_s": self.unix_s}
        for name in ("uj", "w", "cpu_s", "memory", "flags", "mark", "span_s", "late_s"):
            if value := getattr(self, name):
                out[name] = value
        return out

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Sample:
        """Return what `to_dict` wrote."""
        known = {name: data[name] for name in _SAMPLE_FIELDS if name in data}
        known["flags"] = {channel: tuple(flags) for channel, flags in known.get("flags", {}).items()}
        return cls(**known)


_SAMPLE_FIELDS = tuple(f.name for f in fields(Sample))
_CHANNEL_FIELDS = tuple(f.name for f in fields(Channel))


def channel_to_dict(channel: Channel) -> dict[str, Any]:
    """Return a channel as JSON writes it."""
    return asdict(channel)


def channel_from_dict(data: Mapping[str, Any]) -> Channel:
    """Return what `channel_to_dict` wrote."""
    return Channel(**{name: data[name] for name in _CHANNEL_FIELDS if name in data})
