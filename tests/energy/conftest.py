"""Each test is a process of its own as far as warnings go: one warning per cause, anew."""

import pytest

from mcmcopt.energy import errors


@pytest.fixture(autouse=True)
def _no_cause_has_been_warned_of(monkeypatch):
    monkeypatch.setattr(errors, "_warned", set())
