"""The meter loads nothing that it does not need."""

import subprocess
import sys

import pytest

import mcmcopt.energy

HEAVY = ("torch", "numpy", "pynvml", "pandas", "wandb", "matplotlib", "numba", "psutil")


def test_measuring_the_processor_loads_no_heavy_module():
    code = (
        "import sys; from mcmcopt.energy import EnergyMeter, read_log, summarize, measure_energy, measure_inference\n"
        "EnergyMeter(('rapl', 'hwmon'), cpu_estimate=1.0).start().stop().to_json()\n"
        f"found = [name for name in {HEAVY} if name in sys.modules]; sys.exit(str(found) if found else 0)"
    )
    run = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize("name", mcmcopt.energy.__all__)
def test_every_public_name_is_a_documented_object(name):
    assert getattr(mcmcopt.energy, name).__doc__
    assert name in dir(mcmcopt.energy)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="NoSuchThing"):
        mcmcopt.energy.NoSuchThing  # noqa: B018
