"""The benchmark of proposals runs at tiny sizes, and counts work as its documentation says."""

import pytest
import torch

from benchmarks import cases, energy_overhead, energy_peers, loop_overhead, proposals, saliency
from benchmarks.costs import Work, dense


def test_work_of_the_reference_network():
    case = cases.cnn(3)
    shapes = 64 + (64 + 64) + (64 + 64 + 10 + 10) + 10
    assert case.work(case.kinds[0]) == Work(64 * 363 + 64 * 10, 3072 + 4 * shapes + 8).times(3)
    assert dense(case.layers) == 64 * 64 * 363 + 4096 * 10
    assert case.work(case.kinds[1]).fma == 3 * 363


def test_proposals_are_rows_or_distinct_weights():
    import numpy as np

    case = cases.cnn(3)
    for kind, count in zip(case.kinds, (363, 363), strict=True):
        ((weight, (indices, values)),) = case.draw(kind, np.random.default_rng(0)).items()
        assert len(indices.unique()) == len(values) == count
        assert (len((indices // weight[0].numel()).unique()) == 1) == (kind.entries is None)


@pytest.mark.parametrize("part", ["cnn", "digits"])
def test_it_runs(part, capsys, tmp_path):
    output = tmp_path / "table.txt"
    proposals.main(["--quick", "--threads", "1", "--rounds", "1", "--only", part, "--output", str(output)])
    text = capsys.readouterr().out
    assert output.read_text(encoding="utf-8") == text
    assert "read bandwidth" in text
    assert "≥ 3×" in text or "≥ 40×" in text
    assert "DIFFER" not in text
    assert torch.get_num_threads() == 1


def test_the_meters_costs_and_joules_are_printed(capsys):
    energy_overhead.main(["--seconds", "0.3", "--rounds", "1"])
    text = capsys.readouterr().out
    assert "import of EnergyMeter" in text
    assert "| 1 failed read of 4, one of two packages | 12,000.0 J | 12,000.000 J (+0.000 %) |" in text
    assert text.count(" J |") >= 13


def test_the_table_beside_other_meters_is_written_whole(tmp_path, capsys):
    page = tmp_path / "peers.md"
    energy_peers.main(["--write", str(page)])
    assert "| steady laptop, 60 s | 1,800.0 | 1,800.0 |" in page.read_text(encoding="utf-8")
    assert "steady laptop" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["peers.md"]


def test_the_loops_costs_are_printed(capsys):
    short = ["train.epochs=2", "optimizer.lr=0.1", "train.eval_every=1"]
    loop_overhead.main(["--rounds", "1", "--only", "digits, sgd", "--set", *short])
    heads, row = capsys.readouterr().out.splitlines()[1:3]
    assert heads.split() == ["case", "bare", "s", "loop", "meter", "checkpoint", "sum", "min–max", "rows"]
    bare, loop, meter, checkpoint, total = map(float, row.removeprefix("digits, sgd").split()[:5])
    assert bare > 0
    assert meter >= 0
    assert 0 < checkpoint < 100
    assert abs(total - (loop + meter + checkpoint)) < 0.02


def test_the_costs_of_criteria_are_printed(capsys):
    saliency.main(["--model", "lenet5_caffe", "--criteria", "snip", "--batch", "8", "--repeats", "1", "--threads", "1"])
    row = capsys.readouterr().out.splitlines()[-1].split("|")
    assert row[1].strip() == "snip"
    assert row[6].strip() == "21,525"  # a twentieth of 430,500
    assert all(float(cell.replace(",", "")) >= 0 for cell in row[2:6])
