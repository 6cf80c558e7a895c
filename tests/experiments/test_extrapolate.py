"""A run's cost multiplied: by arithmetic of the tests' own, with its provenance, called what it is."""

import json

import pytest
from omegaconf import OmegaConf

from experiments import extrapolate
from experiments.record import METRICS, write_csv

ABSENT = "not measured: no RAPL on this machine"


@pytest.fixture
def made(tmp_path):
    """Return a function that writes the folder of a finished run; a row is step, seconds, joules, estimated."""

    def make(rows, status=ABSENT, assumption="CPU seconds × 2 W", model="experiments.models.alexnet_cifar", **more):
        names = ("step", "seconds", "joules", "joules_estimated")
        write_csv(tmp_path / "metrics.csv", METRICS, [dict(zip(names, row, strict=True)) for row in rows])
        energy = {"status": status, "assumption": assumption}
        summary = {"data": "cifar10", "name": "alexnet_sgd", "seed": 0, "steps": rows[-1][0], "steps_per_epoch": 50}
        (tmp_path / "summary.json").write_text(json.dumps(summary | {"energy": energy} | more))
        (tmp_path / ".hydra").mkdir(exist_ok=True)
        OmegaConf.save({"model": {"_target_": model}}, tmp_path / ".hydra" / "config.yaml")
        return tmp_path

    return make


def found(lines):
    """Return what is said under each heading."""
    heads = ("a step, ", "  time", "  energy, ", "published")
    return {line[:21].strip(): line[21:] for line in lines if line.startswith(heads)}


ROWS = [(0, 0.0, 0.0, 0.0), (10, 9.0, 100.0, 50.0), (20, 11.0, 130.0, 60.0), (40, 17.0, 160.0, 90.0)]


def test_the_first_steps_do_not_count(made):
    said = extrapolate.lines(made(ROWS, "measured: cpu_package (counter)"), steps=1000)
    of = found(said)
    assert "40, of which the last 30 count" in said[1]
    assert of["a step, time"] == "0.267 s (0.200 to 0.300 between rows)"  # (17 − 9) / 30, 2 / 10, 6 / 20
    assert of["a step, measured"] == "2.00 J (1.50 to 3.00 between rows), measured: cpu_package (counter)"
    assert of["a step, estimated"] == "1.33 J (1.00 to 1.50 between rows), CPU seconds × 2 W"
    assert of["time"].startswith("267 s")
    assert of["energy, measured"] == "2000 J = 5.56e-04 kWh = 0.0328 gCO2eq"  # 2000 / 3.6e6 · 59
    assert of["energy, estimated"].startswith("1333 J")
    assert of["published"].startswith("672000 J = 0.187 kWh = 11.0 gCO2eq")


def test_two_rows_are_all_there_is(made):
    said = extrapolate.lines(made(ROWS[:2]), steps=20)
    assert "10, of which the last 10 count" in said[1]
    assert found(said)["time"] == "18.0 s"
    with pytest.raises(ValueError, match="at least two rows, it has 1"):
        extrapolate.lines(made(ROWS[1:2]), steps=20)


def test_epochs_are_the_run_s_own(made):
    by_epochs, by_steps = (extrapolate.lines(made(ROWS), **length) for length in ({"epochs": 3}, {"steps": 150}))
    assert "150 steps (3 epochs of 50)" in by_epochs[5]
    assert by_epochs[6:] == by_steps[6:]
    with pytest.raises(ValueError, match="give --steps"):
        extrapolate.lines(made(ROWS, steps_per_epoch=None), epochs=3)
    for wrong in ({"epochs": 0}, {"steps": -1}, {}):
        with pytest.raises(ValueError, match="must be at least 1"):
            extrapolate.lines(made(ROWS), **wrong)


@pytest.mark.parametrize(
    ("rows", "status", "measured"),
    [
        ([(s, t, None, e) for s, t, _, e in ROWS], ABSENT, ABSENT),
        ([*ROWS[:3], (40, 17.0, None, 90.0)], "measured: gpu (counter)", "not measured: not in all rows"),
    ],
)
def test_what_was_not_measured_is_never_a_number(made, rows, status, measured):
    of = found(extrapolate.lines(made(rows, status), steps=1000))
    assert of["a step, measured"] == measured
    assert of["energy, measured"] == "not measured"
    assert of["energy, estimated"].startswith("1333 J")


def test_what_was_not_estimated_says_why(made):
    rows = [(s, t, None, None) for s, t, *_ in ROWS]
    channel = {"this_process": {"channels": {"cpu_estimate": {"reason": "processor 'X' is not in the table"}}}}
    for more, why in (({}, "energy=estimated does"), (channel, "processor 'X' is not in the table")):
        energy = {"status": ABSENT, "assumption": None} | more
        of = found(extrapolate.lines(made(rows, energy=energy), steps=1000))
        assert (of["a step, estimated"], of["energy, estimated"]) == (f"not estimated: {why}", "not estimated")
    of = found(extrapolate.lines(made(rows), steps=1000))
    assert of["a step, estimated"] == "not estimated: not in all rows"


def test_what_is_multiplied_is_called_so_and_what_is_not_is_above_it(made):
    said = extrapolate.lines(made(ROWS), steps=1000, g_per_kwh=100, source="a grid")
    [place] = [i for i, line in enumerate(said) if line.startswith("EXTRAPOLATION to 1,000 steps")]
    assert "100 gCO2eq/kWh (a grid)" in said[place]
    assert not any(line.startswith("a step") for line in said[place:])
    assert all(line.startswith("  ") for line in said[place + 1 : -1])
    assert "18.7 gCO2eq" in said[-1]
    other = extrapolate.lines(made(ROWS, model="experiments.models.mlp"), steps=1000)
    assert not any("published" in line for line in other[place + 1 :])


def test_command_line(made, tmp_path, capsys):
    assert extrapolate.main([str(made(ROWS)), "--epochs", "2"]) == 0
    assert "EXTRAPOLATION to 100 steps" in capsys.readouterr().out
    assert extrapolate.main([str(tmp_path / "nowhere"), "--steps", "2"]) == 1
    assert "nowhere has no summary.json" in capsys.readouterr().err
    for wrong in ([], ["--steps", "2", "--epochs", "2"], ["--steps", "2", "--g-per-kwh", "30"]):
        with pytest.raises(SystemExit):
            extrapolate.main([str(tmp_path), *wrong])
