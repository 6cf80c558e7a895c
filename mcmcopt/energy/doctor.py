"""Why each sensor is used, or not, and the one command that would change it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from mcmcopt.energy.sample import Channel
from mcmcopt.energy.sensors.rapl import GRANT
from mcmcopt.energy.sources import make_sensors

MODULE = "sudo modprobe intel_rapl_msr  # on real hardware only: virtual machines and containers have no counters"
REMEDIES = (
    # what the reason says, what would change it
    ("permission denied", GRANT),
    ("powercap is missing", MODULE),
    ("no intel-rapl zone", MODULE),
    ("masked", "# measure on the host: its containers see none of this, on purpose (GHSA-jq35-85cj-fj4p)"),
    ("nvidia-ml-py", "python -m pip install nvidia-ml-py"),
    ("rank 0 measures", "# nothing to do: the report of local rank 0 has it"),
    ("not in the table", "# give watts per core yourself: EnergyMeter(cpu_estimate=7.5)"),
)


def remedy(channel: Channel) -> str:
    """Return the command that would enable an absent channel; empty where none is known."""
    return next((command for words, command in REMEDIES if words in channel.reason), "")


def examine(sources: Any = "auto", **settings: Any) -> tuple[Channel, ...]:
    """Return the channels of all sensors as a meter would find them now, the CPU estimate among them."""
    settings.setdefault("cpu_estimate", "table")
    sensors = make_sensors(sources, **settings)
    try:
        return tuple(channel for sensor in sensors for channel in sensor.open())
    finally:
        for sensor in sensors:
            sensor.close()


def describe(channels: Iterable[Channel]) -> str:
    """Return the doctor's page on some channels."""
    found = list(channels)
    lines, remedies = [], dict[str, None]()
    for channel in found:
        if channel.provenance == "absent":
            lines.append(f"{channel.id}: not used: {channel.reason}")
            if command := remedy(channel):
                remedies[command] = None
        elif channel.provenance == "estimated":
            lines.append(f'{channel.id}: an estimate, only where asked for (cpu_estimate="table"): {channel.reason}')
        else:
            how = "its energy counter" if channel.provenance == "counter" else f"integrated: {channel.reason}"
            why = "" if channel.in_total else " (shown, not added: another channel contains it)"
            wrap = f"; wraps after {channel.range_uj / 1e6:,.0f} J" if channel.range_uj else ""
            lines.append(f"{channel.id}: used, {how}{wrap}{why}")
    measured = [c for c in found if c.in_total and c.provenance in ("counter", "integrated")]
    lines.append("")
    if measured:
        lines.append(f"Energy is measured: {', '.join(c.id for c in measured)}.")
    else:
        lines.append("Energy is not measured on this machine; reports say so, and nothing is counted as 0.")
    if remedies:
        lines += ["", "What would help:", *remedies]  # not indented: to be pasted
    if GRANT in remedies:
        lines.append("(then log in anew; never `chmod -R`: the readings are a side channel, CVE-2020-8694)")
    return "\n".join(lines)
