"""The benchmark of proposals runs at tiny sizes, and counts work as its documentation says."""

import pytest
import torch

from benchmarks import cases, proposals
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
