"""Weights & Biases gets what the run folder has, changes nothing in it, and cannot stop a run by failing.

Real runs are offline, their file read by the few lines of `records`: the package has lost its own reader.
"""

import io
import json
import math
import os
import socket
import struct
import sys
from contextlib import redirect_stderr, redirect_stdout
from types import ModuleType, SimpleNamespace

import pytest
from hydra.errors import ConfigCompositionException, InstantiationException

from experiments import job
from experiments.config import folder, resolved
from experiments.job import InterruptedRunError, run
from experiments.logged import by_layer, curves, numbers, sent
from experiments.record import read_csv, read_json

from .conftest import SHORT, composed
from .test_run import StopAfter

TIMES = ("seconds", "joules", "joules_estimated")
QUICK = ("resistance.finetune_epochs=0", "resistance.scopes=[layer]", "energy.inference_seconds=0")


def at(out, optimizer, *overrides):
    return composed(f"optimizer={optimizer}", f"out={out}", *SHORT[optimizer], *QUICK, *overrides)


def records(path):
    """Return the records of a .wandb file: LevelDB's log of blocks of 32 KiB, each record whole or in parts."""
    from wandb.proto import wandb_internal_pb2

    data, position, part, found = path.read_bytes(), 7, b"", []
    while position < len(data):
        left = 32768 - position % 32768
        if left < 7:
            position += left
            continue
        length, kind = struct.unpack("<HB", data[position + 4 : position + 7])
        part += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # whole, or the last part
            record = wandb_internal_pb2.Record()
            record.ParseFromString(part)
            found.append(record)
            part = b""
    return found


def kinds(path, kind):
    return [getattr(record, kind) for record in records(path) if record.WhichOneof("record_type") == kind]


def history(path):
    """Return the rows that were logged, without what the library adds to them and without tables."""
    rows = [
        {item.nested_key[0]: json.loads(item.value_json) for item in row.item if len(item.nested_key) == 1}
        for row in kinds(path, "history")
    ]
    rows = [{key: value for key, value in row.items() if not key.startswith("_")} for row in rows]
    return [row for row in rows if row]


def table(path, name):
    (file,) = (path.parent / "files" / "media" / "table").glob(f"{name}_*.table.json")
    found = json.loads(file.read_text())
    return [dict(zip(found["columns"], row, strict=True)) for row in found["data"]]


def summary(path):
    out = {}
    for record in kinds(path, "summary"):
        for item in record.update:
            out[item.key or "/".join(item.nested_key)] = json.loads(item.value_json)
    return out


def files(path):
    return sorted(path.glob("wandb/offline-run-*/*.wandb"))


def cells(path):
    """Return a table's rows with its numbers as numbers and without empty cells."""
    rows = read_csv(path)
    return [{key: cell if _text(cell) else float(cell) for key, cell in row.items() if cell != ""} for row in rows]


def _text(cell):
    try:
        float(cell)
    except ValueError:
        return True
    return False


@pytest.fixture(scope="module")
def offline(tmp_path_factory):
    """Let wandb run as on a machine where it was never set up; return what stands for the user's home."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("WANDB_")]:
            patch.delenv(name)
        for name in ("HOME", "XDG_DATA_HOME", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR"):
            patch.setenv(name, str(home))
        patch.setenv("WANDB_MODE", "online")  # what the configuration says counts
        patch.setenv("WANDB_ERROR_REPORTING", "false")  # as the logger sets it for good
        yield home


@pytest.fixture(scope="module")
def sweep(offline, tmp_path_factory):
    """Make several runs one after another in one process, as a sweep does, and return folders and what was printed."""
    wandb = pytest.importorskip("wandb")
    out, printed = tmp_path_factory.mktemp("out"), io.StringIO()
    with redirect_stdout(printed), redirect_stderr(printed):
        plain = run(at(out / "plain", "mcmc"))
        mcmc = run(at(out, "mcmc", "logger=wandb"))
        sgd = run(at(out, "sgd", "logger=wandb", "logger.tags=[a,b]", "logger.artifacts=true"))
        cut = at(out / "cut", "mcmc", "logger=wandb")
        with pytest.raises(InterruptedRunError):
            run(cut, stop=StopAfter(1))
        run(cut)
        failing = at(out / "failing", "sgd", "logger=wandb")
        with pytest.MonkeyPatch.context() as fault:
            fault.setattr(job.outcome, "resistance", lambda *_: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                run(failing)
        wandb.teardown()  # only then is the last file whole
    cut, failing = (folder(resolved(cfg)) for cfg in (cut, failing))
    return {"plain": plain, "mcmc": mcmc, "sgd": sgd, "cut": cut, "failing": failing, "printed": printed.getvalue()}


@pytest.mark.parametrize("name", ["mcmc", "sgd"])
def test_history_has_the_rows_of_metrics_csv(sweep, name):
    (file,) = files(sweep[name])
    assert history(file) == cells(sweep[name] / "metrics.csv")
    steps = [
        json.loads(item.value_json)
        for row in kinds(file, "history")
        for item in row.item
        if item.nested_key[:] == ["_step"]
    ]
    assert steps[:-1] == [row["step"] for row in history(file)]  # the tables come after


@pytest.mark.parametrize("name", ["mcmc", "sgd"])
def test_tables_and_summary_are_those_of_the_folder(sweep, name):
    (file,), path = files(sweep[name]), sweep[name]
    curve = [{k: v for k, v in row.items() if v is not None} for row in table(file, "resistance")]
    assert curve == cells(path / "resistance.csv")
    layers, logged = cells(path / "layers.csv"), table(file, "layers")
    assert sum(row["proposed"] or 0 for row in logged) == sum(row.get("proposed", 0) for row in layers)
    assert {(r["layer"], r["active"]) for r in logged} == {(r["layer"], r["active"]) for r in layers[-len(logged) :]}
    said, whole = summary(file), read_json(path / "summary.json")
    assert said["test_accuracy"] == whole["test_accuracy"]
    assert said["weights_kept"] == whole["weights_kept"]
    assert said["energy/windows/train/duration_s"] == whole["energy"]["windows"]["train"]["duration_s"]
    assert said["resistance/magnitude/layer/all/area"] == whole["area_all"]
    assert said["resistance/magnitude/layer/all/accuracy_at_0.9"] == whole["test_accuracy_at_90"]
    assert not any("this_process" in key for key in said)


def test_each_job_of_a_sweep_is_a_run_of_its_own(sweep):
    heads = {name: kinds(files(sweep[name])[0], "run")[0] for name in ("mcmc", "sgd", "cut")}
    assert heads["mcmc"].run_id == read_json(sweep["mcmc"] / "status.json")["hash"][:16] != heads["sgd"].run_id
    assert heads["mcmc"].run_group != heads["sgd"].run_group
    assert heads["mcmc"].project == "mcmcopt"
    assert heads["mcmc"].display_name == f"digits/mcmc/{sweep['mcmc'].name}"
    assert (list(heads["mcmc"].tags), list(heads["sgd"].tags)) == ([], ["a", "b"])
    config = {item.key: json.loads(item.value_json) for item in heads["mcmc"].config.update}
    assert config["optimizer"]["lam"] == 12000
    assert config["train"]["epochs"] == 2


def test_the_run_is_the_same_with_and_without(sweep):
    for name in ("metrics.csv", "layers.csv", "resistance.csv"):
        tables = [cells(sweep[run] / name) for run in ("plain", "mcmc")]
        one, two = ([{k: v for k, v in row.items() if k not in TIMES} for row in table] for table in tables)
        assert one == two
    assert sweep["plain"].name == sweep["mcmc"].name
    assert {p.name for p in sweep["mcmc"].iterdir()} - {p.name for p in sweep["plain"].iterdir()} == {"wandb"}


def test_a_resumed_run_goes_on_under_its_name_and_its_last_file_is_whole(sweep):
    first, last = files(sweep["cut"])
    assert kinds(first, "run")[0].run_id == kinds(last, "run")[0].run_id
    assert all(kinds(file, "run")[0].resume for file in (first, last))
    rows = cells(sweep["cut"] / "metrics.csv")
    assert history(first) == rows[:2]
    assert history(last) == rows
    assert [kinds(file, "exit")[0].exit_code for file in (first, last)] == [1, 0]


def test_a_run_that_fails_is_marked_so(sweep):
    (file,) = files(sweep["failing"])
    assert kinds(file, "exit")[0].exit_code == 1
    assert len(history(file)) == 3
    assert kinds(files(sweep["sgd"])[0], "exit")[0].exit_code == 0


@pytest.mark.parametrize("name", ["mcmc", "sgd"])
def test_nothing_is_said_of_machine_code_or_paths(sweep, name):
    (file,) = files(sweep[name])
    (head,) = kinds(file, "run")
    assert (head.host, head.git.commit, head.git.remote_url) == ("", "", "")
    config = {item.key for item in head.config.update} - {"_wandb"}
    assert {"out", "logger"} & config == set()
    found = {record.WhichOneof("record_type") for record in records(file)}
    assert not found & {"environment", "stats", "output", "output_raw", "alert", "preempting"}
    sent_files = [f.path for record in kinds(file, "files") for f in record.files]
    assert all(path.startswith("media/table/") for path in sent_files)
    text = str([head, *kinds(file, "history"), *kinds(file, "summary"), *kinds(file, "telemetry")])
    assert f'"{socket.gethostname()}"' not in text
    assert str(file.parents[3]) not in text


def test_tables_and_summary_are_kept_as_files_if_asked(sweep):
    kept = {}
    for name in ("mcmc", "sgd"):
        manifests = [artifact.manifest for artifact in kinds(files(sweep[name])[0], "artifact")]
        kept[name] = {file.path for manifest in manifests for file in manifest.contents}
    asked = {"metrics.csv", "layers.csv", "resistance.csv", "summary.json", "env.json"}
    assert kept["sgd"] - kept["mcmc"] == asked


def test_its_files_are_in_the_run_folder_and_one_line_says_how_to_send_them(sweep, offline):
    assert not [path for path in offline.rglob("*") if path.is_file() and "staging" in path.parts]
    lines = [line for line in sweep["printed"].splitlines() if "wandb" in line.lower()]
    files_of = [file.parent for name in ("mcmc", "sgd", "cut", "failing") for file in files(sweep[name])]
    assert sorted(lines) == sorted(f"wandb: to send it: wandb sync {path}" for path in files_of)


class Broken:
    """A wandb in which one call raises, from some time on."""

    def __init__(self, call, calls=1):
        self.call, self.left, self.calls = call, calls, []
        self.summary = SimpleNamespace(update=lambda values: self._called("update", values))
        self.id, self.url, self.dir, self.offline = "id", "url", "dir", False

    def module(self):
        module = ModuleType("wandb")
        for name in ("Settings", "setup", "Table", "teardown"):
            setattr(module, name, lambda *args, name=name, **kwargs: self._called(name, args, kwargs))
        module.init = lambda **kwargs: self._called("init", kwargs) or self
        return module

    def log(self, row, **kwargs):
        self._called("log", row, kwargs)

    def finish(self, **kwargs):
        self._called("finish", kwargs)

    def _called(self, name, *what):
        self.calls.append((name, *what))
        if name == self.call:
            self.left -= 1
            if self.left <= 0:
                raise OSError("the line is cut")


@pytest.mark.parametrize(
    ("call", "calls"), [("log", 1), ("log", 2), ("log", 4), ("Table", 1), ("update", 1), ("finish", 1)]
)
def test_what_fails_after_the_start_is_said_once_and_training_goes_on(short, monkeypatch, capsys, call, calls):
    broken = Broken(call, calls)
    monkeypatch.setitem(sys.modules, "wandb", broken.module())
    path = run(short("sgd", "logger=wandb", "logger.mode=online"))
    assert read_json(path / "status.json")["status"] == "ok"
    assert [row["step"] for row in read_csv(path / "metrics.csv")] == ["0", "2", "4"]
    said = capsys.readouterr().err
    assert said.count("wandb: failed with OSError: the line is cut") == 1
    assert str(path) in said
    names = [name for name, *_ in broken.calls]
    assert names.count("log") == {"log": calls, "finish": 4}.get(call, 3)
    if call == "finish":  # it no longer answers: the next run needs another one
        assert names.pop() == "teardown"
    assert "teardown" not in names
    assert [what for what in broken.calls if what[0] == "finish"][-1] == ("finish", {"exit_code": 1})


def test_what_works_is_finished_once(short, monkeypatch, capsys):
    stub = Broken(None)
    monkeypatch.setitem(sys.modules, "wandb", stub.module())
    run(short("sgd", "logger=wandb", "logger.mode=online", "logger.project=p", "logger.entity=e", "logger.group=g"))
    ((_, begun),) = [call for call in stub.calls if call[0] == "init"]
    assert [begun[key] for key in ("mode", "project", "entity", "group")] == ["online", "p", "e", "g"]
    assert [call for call in stub.calls if call[0] == "finish"] == [("finish", {"exit_code": 0})]
    assert "wandb: url" in capsys.readouterr().out.splitlines()


@pytest.mark.parametrize("module", [None, ModuleType("wandb")], ids=["nothing", "an empty folder"])
def test_where_it_is_not_installed_no_run_starts(short, monkeypatch, module):
    monkeypatch.setitem(sys.modules, "wandb", module)
    monkeypatch.setattr(job, "_work", lambda *_: pytest.fail("worked"))
    with pytest.raises(ModuleNotFoundError, match=r'pip install "mcmcopt\[wandb\]"'):
        run(short("sgd", "logger=wandb"))
    assert read_json(folder(resolved(short("sgd"))) / "status.json")["status"] == "failed"


def test_where_it_begins_no_run_none_starts(short, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", Broken("init").module())
    monkeypatch.setattr(job, "_work", lambda *_: pytest.fail("worked"))
    with pytest.raises(RuntimeError, match=r"the line is cut; logger=csv"):
        run(short("sgd", "logger=wandb"))


def test_it_is_not_imported_where_it_is_not_chosen(short, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    run(short("sgd"))


def test_settings_are_checked_and_choose_no_other_folder(short):
    with pytest.raises(ConfigCompositionException):
        short("sgd", "logger=wandb", "logger.projekt=x")
    with pytest.raises(InstantiationException, match=r"logger.mode must be .* got .*onlin"):
        run(short("sgd", "logger=wandb", "logger.mode=onlin"))
    assert folder(resolved(short("sgd", "logger=wandb", "logger.tags=[a]"))) == folder(resolved(short("sgd")))


def test_paths_are_not_sent():
    config = {
        "out": "outputs",
        "logger": {"project": "p"},
        "data": {"name": "digits", "root": "../shared", "n": 3},
        "optimizer": {"lr": 0.1, "init": "/srv/weights.pt", "groups": {"fc1": {"files": ["~/a", "b"]}}},
    }
    assert sent(config) == {
        "data": {"name": "digits", "n": 3},
        "optimizer": {"lr": 0.1, "groups": {"fc1": {"files": ["b"]}}},
    }


def test_layers_are_summed_over_the_run():
    def row(layer, move, proposed, accepted, active):
        return {"layer": layer, "move": move, "proposed": proposed, "accepted": accepted, "active": active, "size": "9"}

    rows = [row("a", "walk", "4", "1", "9"), row("b", "", "", "", "3"), row("a", "walk", "6", "4", "8")]
    assert by_layer([*rows, row("a", "birth", "2", "0", "7")]) == [
        {"layer": "a", "move": "walk", "proposed": 10, "accepted": 5, "acceptance": 0.5, "active": 7, "size": 9},
        {"layer": "a", "move": "birth", "proposed": 2, "accepted": 0, "acceptance": 0.0, "active": 7, "size": 9},
        {"layer": "b", "move": None, "proposed": None, "accepted": None, "acceptance": None, "active": 3, "size": 9},
    ]


def test_curves_are_areas_and_points():
    def row(criterion, requested, accuracy):
        return {
            "criterion": criterion, "scope": "layer", "basis": "all", "requested": requested, "test_accuracy": accuracy
        }  # fmt: skip

    rows = [row("magnitude", 0.9, 0.5), row("magnitude", 0.0, 1.0), row("random", 0.5, 0.2), row("random", 0.6, 0.1)]
    rows += [row("magnitude", 1.0, 0.1), row("magnitude", 0.99, None)]
    assert curves(rows) == {
        "resistance/magnitude/layer/all/area": pytest.approx(0.75),
        "resistance/magnitude/layer/all/accuracy_at_0.9": 0.5,
        "resistance/random/layer/all/accuracy_at_0.5": 0.2,
    }


def test_numbers_are_the_finite_ones():
    values = {"a": 1, "b": {"c": 0.5, "d": "text", "e": math.nan}, "f": None, "g": [1], "i": True, "j": math.inf}
    assert dict(numbers(values, "x/")) == {"x/a": 1, "x/b/c": 0.5, "x/i": True}
