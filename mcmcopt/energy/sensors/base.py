"""What a sensor is: channels, found when it is opened, and readings of them."""

from __future__ import annotations

from typing import Literal, Protocol

from mcmcopt.energy.sample import Channel, Values

Scope = Literal["tick", "edge", "powers"]
"""What to read: all there is, at the period's pace (`tick`); one value per channel, at a window's edge (`edge`); those
channels alone whose joules can only be had by integrating their power (`powers`)."""


class Sensor(Protocol):
    """A source of joules.  Its owner calls it under a lock: it need not be safe for threads.

    An object of one's own with these methods can be given to `EnergyMeter(sources=…)`.
    """

    name: str
    """Such as `rapl`."""

    def open(self) -> tuple[Channel, ...]:
        """Find the channels and make them ready; those that cannot be read are `absent`, with the reason.

        Never raises for hardware that is missing or forbidden.
        """

    def read(self, scope: Scope = "tick") -> Values:
        """Read the channels.

        One that fails is left out of the values and flagged.  Whatever is raised disables the sensor.
        """

    def close(self) -> None:
        """Let go of files and drivers; can be called again."""

    def forget(self) -> None:
        """In a forked child: let go of what the parent uses too, without telling the driver."""
