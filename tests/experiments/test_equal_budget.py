"""The table of equal budgets: from summaries to rows."""

import json

import pytest
from omegaconf import OmegaConf

from experiments.config import group_hash
from experiments.equal_budget import main, table


def write(root, name, density, seed, accuracy, forwards=6_000_000, lr=1):
    folder = root / "cifar10_jpeg" / name / f"seed-{seed}-{density}"
    (folder / ".hydra").mkdir(parents=True)
    config = {"name": name, "seed": seed, "density": density, "data": {"name": "cifar10_jpeg"}, "model": {"a": lr}}
    (folder / ".hydra" / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(config)))
    summary = {"test_accuracy": accuracy, "share_active": density - 0.001, "forwards": forwards, "seconds": 100 + seed}
    (folder / "summary.json").write_text(json.dumps(summary))
    (folder / "status.json").write_text('{"status": "ok"}')


def test_rows_have_spread_and_paired_differences(tmp_path):
    for seed, (one, two) in enumerate([(0.53, 0.55), (0.54, 0.55), (0.52, 0.55)]):
        write(tmp_path, "base", 0.02, seed, one)
        write(tmp_path, "other", 0.02, seed, two, 5_900_000)
    write(tmp_path, "base", 0.01, 0, 0.4)
    rows = table([tmp_path], ["base"])
    assert [row[:3] for row in rows] == [["98", "base", "3"], ["98", "other", "3"], ["99", "base", "1"]]
    assert rows[1][3:] == ["55.00 ± 0.00", "1.90", "5.90 ± 0.00", "101 ± 1", "+2.00 [-0.48, +4.48]"]
    assert rows[0][3] == "53.00 ± 1.00"
    assert rows[2][3:] == ["40.00", "0.90", "6.00", "100", ""]


def test_what_cannot_be_tabled_is_refused(tmp_path, capsys):
    assert main([str(tmp_path)]) == 1
    assert "no finished run" in capsys.readouterr().err
    write(tmp_path, "base", 0.02, 0, 0.5)
    with pytest.raises(ValueError, match="no run of the baseline 'x' among base"):
        table([tmp_path], ["x"])
    write(tmp_path / "again", "base", 0.02, 0, 0.5, lr=2)
    with pytest.raises(ValueError, match="another run of base"):
        table([tmp_path], ["base"])


def test_a_seed_within_the_parts_of_a_hybrid_makes_no_other_group():
    def config(seed, lr):
        parts = [{"_target_": "torch.optim.SGD", "lr": lr}, {"_target_": "mcmcopt.GreedyMCMC", "seed": seed}]
        return {"seed": seed, "optimizer": {"optimizers": parts}}

    assert group_hash(config(0, 0.1)) == group_hash(config(1, 0.1)) != group_hash(config(0, 0.2))
