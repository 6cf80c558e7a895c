"""docs/extend.md: its snippets are put into a copy of experiments/ and conf/, its commands run there at two steps."""

import json
import re
import shutil
import subprocess
import sys

import pytest
import torch

from experiments.models import mlp

from .conftest import ROOT
from .test_run import table

PAGE = (ROOT / "docs" / "extend.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"(.*?)```(\w*)\n(.*?)```", PAGE, flags=re.DOTALL)
"""Text before a snippet, its language, the snippet."""

SUFFIX = {"python": "py", "yaml": "yaml"}
FILES = {
    re.findall(rf"`((?:experiments|conf)/[\w/]+\.{SUFFIX[language]})`", text)[-1]: body
    for text, language, body in BLOCKS
    if language
}
COMMANDS = [line for _, language, body in BLOCKS if not language for line in body.splitlines()]
SHORT = "train.epochs=null train.steps=2 train.eval_every=1 resistance.finetune_at=[] energy=off"
MORE = {"optimizer=sgd_taylor": "train.pruning.at=1"}
"""What two steps need besides, by a command's last word."""

RUN_ALL = """
import json, runpy, shlex, sys
codes = []
for number, command in enumerate(json.load(sys.stdin)):
    sys.argv = [*shlex.split(command)[1:], f"out=outputs/{number}"]
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
        codes.append(0)
    except BaseException as error:
        codes.append(error.code if isinstance(error, SystemExit) else repr(error))
json.dump(codes, open("codes.json", "w"))
"""
"""In one process, since most of a command's time is the import of torch."""


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """Return the folder in which all was run, what was said there, and the exit code of each command."""
    place = tmp_path_factory.mktemp("checkout")
    for folder in ("experiments", "conf"):
        shutil.copytree(ROOT / folder, place / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for path, body in FILES.items():
        assert not (place / path).exists(), f"{path} is there already"
        (place / path).write_text(body, encoding="utf-8")
    commands = json.dumps([f"{command} {SHORT} {MORE.get(command.split()[-1], '')}" for command in COMMANDS])
    said = subprocess.run(
        [sys.executable, "-c", RUN_ALL], input=commands, cwd=place, capture_output=True, text=True, check=False
    )
    assert said.returncode == 0, said.stderr
    return place, said.stdout + said.stderr, json.loads((place / "codes.json").read_text())


def result(done, *words):
    """Return the folder and the summary of the run of the command that has all the words."""
    [number] = [i for i, command in enumerate(COMMANDS) if set(words) <= set(command.split())]
    [path] = (done[0] / "outputs" / str(number)).rglob("summary.json")
    return path.parent, json.loads(path.read_text())


@pytest.mark.parametrize("number", range(len(COMMANDS)), ids=COMMANDS)
def test_every_command_runs(done, number):
    place, said, codes = done
    assert codes[number] in (0, None), said
    [path] = (place / "outputs" / str(number)).rglob("summary.json")
    assert json.loads(path.read_text())["steps"] == 2


def test_every_file_is_chosen_by_a_command():
    words = {word for command in COMMANDS for word in command.split()}
    for path in FILES:
        _, group, name = path.removesuffix(".yaml").split("/") if path.endswith(".yaml") else ("", "", "")
        if group == "tuned":
            assert any({f"optimizer={a}", f"model={b}"} <= words for a, _, b in (name.partition("_"),)), path
        elif group:
            assert f"{group}={name}" in words, path
        else:
            module = path.removesuffix(".py").replace("/", ".")
            assert any(f"_target_: {module}." in body for body in FILES.values()), path


def test_a_python_file_has_at_most_ten_lines_of_code():
    python = {path: [line for line in body.splitlines() if line] for path, body in FILES.items() if ".py" in path}
    assert len(python) >= 3
    assert {path: len(lines) for path, lines in python.items() if len(lines) > 10} == {}


def test_the_snippets_do_what_the_page_says(done):
    path, iris = result(done, "data=iris")
    assert (path.parents[1].name, iris["weights"]) == ("iris", 4 * 16 + 16 * 3)
    for optimizer in ("sgd", "mcmc"):
        _, cnn = result(done, "model=small_cnn", f"optimizer={optimizer}")
        assert (cnn["name"], cnn["weights"]) == (optimizer, 8 * 9 + 72 * 10)
    for optimizer in ("rmsprop", "sign_sgd"):
        _, summary = result(done, f"optimizer={optimizer}")
        assert (summary["name"], summary["gradients"], summary["proposals"]) == (optimizer, 2, 0)
    _, block = result(done, "optimizer=mcmc_block")
    assert (block["name"], block["gradients"]) == ("mcmc_block", 0)
    assert block["proposals"] > 100
    _, taylor = result(done, "optimizer=sgd_taylor")
    assert taylor["weights_kept"] == 2368 - round(0.9 * 2368)
    path, _ = result(done, "logger=json_lines")
    rows = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [int(row["step"]) for row in table(path / "metrics.csv")] == [0, 1, 2]


def test_sign_sgd_goes_by_signs():
    made = {}
    exec(FILES["experiments/sign_sgd.py"], made)  # noqa: S102 -- our own page
    model, x = mlp((3, 2)), torch.rand(5, 3)
    optimizer = made["SignSGD"](model.parameters(), lr=0.25)
    before = model.fc1.weight.detach().clone()

    def closure():
        optimizer.zero_grad()
        loss = model(x).square().sum()
        loss.backward()
        return loss

    loss = optimizer.step(closure)
    assert torch.allclose(before - model.fc1.weight, 0.25 * model.fc1.weight.grad.sign(), atol=1e-6)
    assert loss.detach() > 0
