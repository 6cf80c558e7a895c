"""The README's code runs, and what it names exists."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


@pytest.mark.filterwarnings("ignore::mcmcopt.energy.errors.EnergyWarning")  # of a machine without sensors
@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_code_runs(number, capsys):
    import torch

    torch.manual_seed(0)
    shared = {}
    for block in BLOCKS[: number + 1]:  # a later block may use what an earlier one made
        exec(compile(block, "README.md", "exec"), shared)  # noqa: S102 -- our own README


def test_there_is_code():
    assert BLOCKS


def test_files_it_names_exist():
    named = set(re.findall(r"\]\(([\w./-]+)\)", README)) | set(
        re.findall(r"(?:docs|benchmarks|experiments)/[\w./-]+\w", README)
    )
    assert named
    missing = sorted(name for name in named if not (ROOT / name).exists())
    assert not missing


def test_its_make_targets_exist():
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))
    assert set(re.findall(r"`?make ([\w-]+)", README)) <= targets
