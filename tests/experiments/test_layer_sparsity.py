"""The demonstration on digits: layers vanish, the network that remains is the same function and smaller."""

import pytest

from experiments import layer_sparsity
from mcmcopt.sparsity import count

SHORT = ["--sizes", "64", "8", "8", "10", "--epochs", "3", "--refit", "1", "--seeds", "1"]


def test_layers_vanish_and_the_network_is_smaller():
    out = layer_sparsity.run((64, 16, 16, 10), 0.3, 0, epochs=8, refit=2, repeats=2)
    assert "fc2" in out.gone
    assert out.merged == out.trained
    assert out.difference < 1e-3
    assert out.before == 64 * 16 + 16 + 16 * 16 + 16 + 16 * 10 + 10
    assert out.after == count(layer_sparsity.built(out.remaining, 0), weights_only=False) < out.before
    assert len(out.remaining) == 4 - len(out.gone)
    assert out.trained > 0.5
    assert out.fresh > 0.8


def test_without_strength_nothing_vanishes():
    out = layer_sparsity.run((64, 16, 16, 10), 0.0, 0, epochs=2, refit=1, repeats=2)
    assert out.gone == ()
    assert out.remaining == (64, 16, 16, 10)
    assert out.before == out.after
    assert out.difference == 0


def test_the_command_prints_a_row_for_each_strength(capsys):
    assert layer_sparsity.main([*SHORT, "--strengths", "0", "1"]) == 0
    rows = [row for row in capsys.readouterr().out.splitlines() if row.startswith("|")]
    assert len(rows) == 4
    assert "none" in rows[2]
    assert "fc2 1/1" in rows[3]


@pytest.mark.parametrize("arguments", [["--sizes", "64", "10"], ["--strengths", "-1"], ["--seeds", "0"]])
def test_bad_arguments_are_refused(arguments):
    with pytest.raises(SystemExit):
        layer_sparsity.main(arguments)
