"""mcmcopt.energy: joules that can be believed: counters first, every number with its provenance, a missing one missing.

    with EnergyMeter() as meter:
        with meter.window("train"):
            ...
    print(meter.report)

Used alone it loads no torch: names are resolved when first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mcmcopt.energy.decorator import measure_energy as measure_energy
    from mcmcopt.energy.errors import EnergyMeterForkedError as EnergyMeterForkedError
    from mcmcopt.energy.errors import EnergyWarning as EnergyWarning
    from mcmcopt.energy.errors import SensorUnavailable as SensorUnavailable
    from mcmcopt.energy.foreign.aipowermeter import from_aipowermeter as from_aipowermeter
    from mcmcopt.energy.foreign.wattmeter import compare as compare
    from mcmcopt.energy.inference import measure_inference as measure_inference
    from mcmcopt.energy.log import read_log as read_log
    from mcmcopt.energy.meter import EnergyMeter as EnergyMeter
    from mcmcopt.energy.offline import summarize as summarize
    from mcmcopt.energy.outputs.emissions import carbon as carbon
    from mcmcopt.energy.report import Report as Report
    from mcmcopt.energy.sample import Channel as Channel
    from mcmcopt.energy.sample import Sample as Sample

_HOMES = {
    "decorator": ("measure_energy",),
    "errors": ("EnergyMeterForkedError", "EnergyWarning", "SensorUnavailable"),
    "foreign.aipowermeter": ("from_aipowermeter",),
    "foreign.wattmeter": ("compare",),
    "inference": ("measure_inference",),
    "log": ("read_log",),
    "meter": ("EnergyMeter",),
    "offline": ("summarize",),
    "outputs.emissions": ("carbon",),
    "report": ("Report",),
    "sample": ("Channel", "Sample"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = list(_HOME_OF)


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'mcmcopt.energy' has no attribute {name!r}")
    value = getattr(import_module(f"mcmcopt.energy.{_HOME_OF[name]}"), name)
    globals()[name] = value  # also where a submodule has the same name
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME_OF])
