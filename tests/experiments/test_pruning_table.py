"""The table of ways of pruning: from run folders to rows."""

import json

import pytest
from omegaconf import OmegaConf

from experiments.pruning_table import main, table


def write(root, name, density, seed, accuracy, kept=100, epochs=10, pruning=True, best=None, joules=None, lr=1):
    folder = root / "mnist" / name / f"seed-{seed}-{density}-{epochs}"
    (folder / ".hydra").mkdir(parents=True)
    config = {
        "name": name,
        "seed": seed,
        "density": density,
        "data": {"name": "mnist"},
        "model": {"_target_": "a.b", "lr": lr},
        "train": {"epochs": epochs, "pruning": {"density": density} if pruning else None},
    }
    (folder / ".hydra" / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(config)))
    summary = {
        "test_accuracy": accuracy,
        "weights_kept": kept,
        "weights": 1000,
        "epochs": epochs,
        "seconds": 100 + seed,
        "pruning_seconds": 2.0,
    }
    summary |= {"forwards": 180_000 * epochs + (10_000 if name == "snip" else 0)}
    summary |= {"joules": None, "joules_estimated": joules, "energy": {"assumption": "2 W per core"}}
    (folder / "summary.json").write_text(json.dumps(summary))
    (folder / "status.json").write_text('{"status": "ok"}')
    (folder / "metrics.csv").write_text(
        f"step,test_accuracy\n0,0.1\n5,{accuracy if best is None else best}\n9,{accuracy}\n"
    )


def test_rows_are_by_density_best_first_with_paired_differences(tmp_path):
    for seed, (one, two) in enumerate([(0.53, 0.55), (0.54, 0.55), (0.52, 0.55)]):
        write(tmp_path, "random", 0.02, seed, one)
        write(tmp_path, "snip", 0.02, seed, two, best=0.56, joules=50.0)
        write(tmp_path, "dense", 0.1, seed, 0.9, kept=1000, pruning=False)
    write(tmp_path, "snip", 0.1, 0, 0.6, kept=101)
    write(tmp_path, "snip", 0.1, 1, 0.6, kept=99)
    write(tmp_path, "snip", 0.02, 0, 0.57, epochs=20)
    write(tmp_path, "units", 0.02, 0, 0.3, kept=150)
    rows = table([tmp_path], "random")
    assert [row[:6] for row in rows] == [
        ["0", "dense", "3", "10", "1.80", "1,000"],
        ["90", "snip", "2", "10", "1.81", "99 to 101"],
        ["98", "snip", "3", "10", "1.81", "100"],
        ["98", "random", "3", "10", "1.80", "100"],
        ["98", "units", "1", "10", "1.80", "150"],
        ["98", "snip", "1", "20", "3.61", "100"],
    ]
    assert rows[2][6:] == [
        "55.00 ± 0.00",
        "56.00 ± 0.00",
        "+2.00 [-0.48, +4.48]",
        "101 ± 1",
        "2.0 ± 0.0",
        "50 ± 0 (estimated)",
    ]
    assert rows[3][6:] == ["53.00 ± 1.00", "53.00 ± 1.00", "", "101 ± 1", "2.0 ± 0.0", "not measured"]
    assert rows[4][8] == ""  # no control of that many weights
    assert rows[5][8] == ""  # nor of that length


def test_what_cannot_be_tabled_is_refused(tmp_path, capsys):
    assert main([str(tmp_path)]) == 1
    assert "no finished run" in capsys.readouterr().err
    write(tmp_path, "snip", 0.02, 0, 0.5)
    assert main([str(tmp_path)]) == 0
    assert capsys.readouterr().out.splitlines()[0].startswith("| zeros asked for, % | method |")
    write(tmp_path / "again", "snip", 0.02, 0, 0.5, lr=2)
    with pytest.raises(ValueError, match="another run of snip"):
        table([tmp_path], "random")
