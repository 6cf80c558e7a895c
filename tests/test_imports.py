"""Importing the package is cheap, and every public name exists."""

import subprocess
import sys

import pytest

import mcmcopt


def test_importing_the_package_does_not_load_torch():
    code = "import sys, mcmcopt; dir(mcmcopt); sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("name", mcmcopt.__all__)
def test_every_public_name_resolves_to_a_documented_object_of_that_name(name):
    thing = getattr(mcmcopt, name)
    assert thing.__name__ == name
    assert thing.__doc__
    assert name in dir(mcmcopt)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="NoSuchThing"):
        mcmcopt.NoSuchThing  # noqa: B018
