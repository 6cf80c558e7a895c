"""Data that arrive once: what is seen when, what is remembered, what is predicted, and regret."""

import copy
import csv
import json
import re

import numpy as np
import pytest
import torch
from hydra.errors import ConfigCompositionException
from torch.nn.functional import cross_entropy

from experiments import analysis, outcome, plot, record, stream, tables, train
from experiments.config import folder, resolved
from experiments.data import Data, Split
from experiments.figures.stream import regret
from experiments.job import InterruptedRunError, run
from experiments.models import mlp
from experiments.stream import Stream, StreamBatches, changed, fixed, totals, with_hindsight
from experiments.train import Training
from mcmcopt import Gaussian, GreedyMCMC

from .conftest import composed
from .parsed import Page
from .test_run import StopAfter, assert_same, status, table

SIZES = [(20, 4, 8, None), (21, 4, 9, 3), (23, 5, 5, 5), (30, 7, 100, 6), (12, 1, 3, 2), (10, 5, 5, None)]


def made_up(n, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return Split(torch.rand(n, 1, 8, 8, generator=generator), torch.randint(10, (n,), generator=generator))


def network(seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return mlp()


def short(method, out, *overrides):
    """Compose a run of 6 chunks, the last one short, 3 steps after each."""
    settings = ["data.n_train=44", "data.n_validation=10", "data.n_test=20", "train.stream.hindsight_epochs=2"]
    settings += ["train.stream.chunk=8", "train.stream.memory=20", "train.stream.steps=3", "train.refresh_steps=3"]
    if method == "sgd":
        settings.append("train.batch_size=6")
    elif method != "hybrid":
        settings.append("optimizer.n_proposals=10")
    return composed("experiment=stream", f"optimizer={method}", f"out={out}", "energy=off", *settings, *overrides)


@pytest.fixture(autouse=True)
def few_shares(monkeypatch):
    monkeypatch.setattr(outcome, "SPARSITIES", (0.5, 0.9, 0.95, 0.98))  # those of which the summary tells


# --- what is held


def check_memory(batches):
    """Assert that chunks come once, in order, and batches from the last `memory` samples of what has come."""
    settings, n, seen = batches.stream, batches.n, 0
    for taken in range(batches.per_epoch):
        if (arrival := batches.arrival) is not None:
            assert taken % settings.steps == 0
            assert (arrival.start, arrival.stop) == (seen, min(seen + settings.chunk, n))
            seen = arrival.stop
        batch = batches.take().tolist()
        held = range(max(0, seen - settings.memory), seen)
        assert set(batch) <= set(held)
        assert len(set(batch)) == len(batch) == min(len(held), batches.size)
        assert batches.epoch_done == (taken + 1 == batches.per_epoch)
    assert seen == n


@pytest.mark.parametrize(("n", "chunk", "memory", "size"), SIZES)
def test_batches_are_of_the_last_samples_that_have_come(n, chunk, memory, size):
    batches = StreamBatches(Stream(chunk, memory, 3), n, size, 0)
    check_memory(batches)
    for planted in (Stream(chunk, memory + 1, 3), Stream(chunk + 1, memory + 1, 3)):
        wrong = StreamBatches(planted, n, size, 0) if 2 * planted.chunk <= n else None
        if wrong is None or (planted.chunk == chunk and memory >= n):
            continue
        wrong.stream, claimed = planted, Stream(chunk, memory, 3)
        with pytest.raises(AssertionError):
            check_memory(_Claims(wrong, claimed))


class _Claims:
    """Batches of one stream that pass themselves off as those of another, drawn often enough to show it."""

    def __init__(self, batches, claimed):
        self._batches, self.stream = batches, claimed
        batches.size = min(batches.n, batches.stream.memory)

    def __getattr__(self, name):
        return getattr(self._batches, name)


def test_every_sample_of_the_memory_is_drawn_about_equally_often():
    batches = StreamBatches(Stream(10, 10, 2000), 20, 3, 0)
    drawn = torch.bincount(torch.cat([batches.take() for _ in range(2000)]), minlength=20)
    assert drawn[10:].sum() == 0
    assert drawn[:10].float() == pytest.approx(600, abs=5 * (2000 * 0.3 * 0.7) ** 0.5)


def test_all_that_the_memory_holds_is_one_object_until_the_next_chunk():
    batches = StreamBatches(Stream(4, 8, 3), 16, None, 0)
    taken = [batches.take() for _ in range(12)]
    for i in range(0, 12, 3):
        assert taken[i] is taken[i + 1] is taken[i + 2]
        assert i == 0 or taken[i] is not taken[i - 1]


# --- the change


@pytest.mark.parametrize("n", [8, 9])
@pytest.mark.parametrize("kind", [torch.float32, torch.uint8])
def test_the_change_is_at_the_middle_and_stays(n, kind):
    data = Data(*(made_up(size, i) for i, size in enumerate((n, 3, 4))))
    data = Data(*(Split((255 * s.x).to(kind), s.y) for s in (data.train, data.validation, data.test)))
    half = n // 2
    for change, turned, named in (("rotate", True, False), ("labels", False, True), ("none", False, False)):
        found = changed(data, Stream(2, 2, 1, change))
        for one, two, start in (
            (found.train, data.train, half),
            (found.validation, data.validation, 0),
            (found.test, data.test, 0),
        ):
            assert one.x.dtype == kind
            assert torch.equal(one.x[:start], two.x[:start])
            assert torch.equal(one.y[:start], two.y[:start])
            # counter-clockwise: what was the last column is the first row
            x = two.x[start:].transpose(2, 3).flip(2) if turned else two.x[start:]
            assert torch.equal(one.x[start:], x)
            assert torch.equal(one.y[start:], (two.y[start:] + named).remainder(10))
        same = torch.equal(found.train.x, data.train.x) and torch.equal(found.train.y, data.train.y)
        assert same == (change == "none")


def test_images_that_are_not_square_do_not_turn():
    wide = Split(torch.rand(4, 1, 2, 3), torch.zeros(4, dtype=torch.int64))
    with pytest.raises(ValueError, match=re.escape('change="rotate" is for square images, got (2, 3)')):
        changed(Data(wide, wide, wide), Stream(2, 2, 1))
    assert len(changed(Data(wide, wide, wide), Stream(2, 2, 1, "labels")).train) == 4


# --- predict, then learn


def optimizers(model):
    yield torch.optim.SGD(model.parameters(), 0.5, momentum=0.9)
    yield GreedyMCMC(model.parameters(), lam=1000.0, n_proposals=20, prior=Gaussian(1.0))


def weights_at_arrival(monkeypatch, which, split, batches):
    """Return the weights by which each chunk was predicted."""
    found, predict = [], train.prediction

    def spy(model, split, chunk):
        found.append(copy.deepcopy(model.state_dict()))
        return predict(model, split, chunk)

    model = network()
    with monkeypatch.context() as patch:
        patch.setattr(train, "prediction", spy)
        for _ in Training(model, list(optimizers(model))[which], split, batches, epochs=1).run():
            pass
    return found


class SeesAhead(StreamBatches):
    """Planted error: learns from a chunk before it is predicted."""

    def take(self):
        self.position, own = min(self.position + 1, self._count - 1), self.position
        batch = super().take()
        self.position = own if self.taken else (own + 1) % self._count
        return batch


class PredictsLate(StreamBatches):
    """Planted error: predicts a chunk after the first step on it."""

    @property
    def arrival(self):
        start = self.position * self.stream.chunk
        return slice(start, min(start + self.stream.chunk, self.n)) if self.taken == 1 else None


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("kind", [StreamBatches, SeesAhead, PredictsLate])
def test_a_chunk_is_predicted_before_anything_learns_from_it(monkeypatch, which, kind):
    # what the labels of a chunk can reach is later than its prediction, and begins right after it
    split, settings = made_up(22), Stream(4, 12, 3)
    one = weights_at_arrival(monkeypatch, which, split, kind(settings, 22, None, 0))
    for chunk in (1, 3):
        labels = split.y.clone()
        labels[4 * chunk : 4 * chunk + 4] = (labels[4 * chunk : 4 * chunk + 4] + 5) % 10
        two = weights_at_arrival(monkeypatch, which, Split(split.x, labels), kind(settings, 22, None, 0))
        same = [all(torch.equal(a[key], b[key]) for key in a) for a, b in zip(one, two, strict=True)]
        expected = [i <= chunk for i in range(6)]
        assert (same == expected) == (kind is StreamBatches), (same, expected)


def test_losses_are_those_of_a_loop_of_its_own():
    split, model = made_up(22), network()
    training = Training(
        model, torch.optim.SGD(model.parameters(), 0.5), split, StreamBatches(Stream(4, 10, 3), 22, None, 0), epochs=1
    )
    assert sum(training.run()) == 1
    own, expected = network(), []
    for end in (4, 8, 12, 16, 20, 22):
        start = 4 * ((end - 1) // 4)
        probabilities = own(split.x[start:end]).softmax(1)
        right = probabilities[torch.arange(end - start), split.y[start:end]]
        wrong = int((probabilities.argmax(1) != split.y[start:end]).sum())
        expected.append({"seen": end, "loss": float(-right.detach().log().sum()), "errors": wrong})
        memory = slice(max(0, end - 10), end)
        for _ in range(3):
            own.zero_grad()
            cross_entropy(own(split.x[memory]), split.y[memory]).backward()
            with torch.no_grad():
                for p in own.parameters():
                    p -= 0.5 * p.grad
    assert [row["seen"] for row in training.arrivals] == [row["seen"] for row in expected]
    assert [row["errors"] for row in training.arrivals] == [row["errors"] for row in expected]
    assert [row["loss"] for row in training.arrivals] == pytest.approx([row["loss"] for row in expected], rel=1e-5)


# --- regret


def test_the_fixed_network_is_a_function_of_its_seed():
    split, initial = made_up(90), network()
    before = copy.deepcopy(initial.state_dict())
    state = torch.get_rng_state()
    one = fixed(initial, split, 100, 3)
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(5)
    two, other = fixed(initial, split, 100, 3), fixed(initial, split, 100, 4)
    assert_same(dict(one.state_dict()), dict(two.state_dict()))
    assert not torch.equal(one.state_dict()["fc1.weight"], other.state_dict()["fc1.weight"])
    assert_same(dict(initial.state_dict()), dict(before))
    losses = [cross_entropy(model(split.x), split.y).item() for model in (initial, one)]
    assert losses[1] < 0.7 * losses[0]


def test_regret_is_the_difference_of_sums():
    split, initial, settings = made_up(22), network(), Stream(4, 8, 1, hindsight_epochs=3)
    learner = [{"seen": end, "loss": 10.0 * i, "errors": i} for i, end in enumerate((4, 8, 12, 16, 20, 22))]
    rows = with_hindsight(learner, initial, split, settings, 0)
    best = fixed(initial, split, 3, 0)
    loss = cross_entropy(best(split.x), split.y, reduction="none").detach()
    assert [row["hindsight_loss"] for row in rows] == pytest.approx([float(c.sum()) for c in loss.split(4)], rel=1e-5)
    assert sum(row["hindsight_errors"] for row in rows) == int((best(split.x).argmax(1) != split.y).sum())
    found = totals(rows)
    assert found["stream_regret"] == pytest.approx(150 - float(loss.sum()), rel=1e-5)
    # the middle is at 11, inside the third chunk
    assert (found["stream_loss_before"], found["stream_loss_after"], found["stream_loss"]) == (10.0, 140.0, 150.0)
    assert (found["stream_errors_before"], found["stream_errors_after"]) == (1, 14)


# --- runs

METHODS = {
    "sgd": (),
    "mcmc_dense": ("train.incremental=false",),
    "mcmc": ("train.incremental=true",),
    "hybrid": ("train.chain_batch_size=null", "train.batch_size=6", "optimizer.every=[1,2]"),
}


class KilledError(BaseException):
    """What a run does not catch, as it does not catch SIGKILL."""


def assert_same_stream(one, two):
    assert (one / "stream.csv").read_bytes() == (two / "stream.csv").read_bytes()
    for name in ("metrics.csv", "layers.csv", "resistance.csv"):
        assert table(one / name) == table(two / name), name
    states = [torch.load(p / "checkpoint.pt", weights_only=True)["training"] for p in (one, two)]
    for state in states:
        del state["counters"]["seconds"], state["counters"]["row_seconds"]
    assert_same(*states)


@pytest.mark.parametrize("method", METHODS)
def test_an_interrupted_stream_is_the_same_stream(tmp_path, monkeypatch, method):
    whole = run(short(method, tmp_path / "whole", *METHODS[method]))
    rows = record.read_csv(whole / "stream.csv")
    assert [int(row["seen"]) for row in rows] == [8, 16, 24, 32, 40, 44]
    cfg = short(method, tmp_path / "cut", *METHODS[method], "progress.checkpoint_steps=2")
    path = folder(resolved(cfg))
    done, predict = 0, train.prediction
    for stop in (3,) if method == "mcmc" else (3, 5):  # between chunks, where caches are dropped too; and within one
        with pytest.raises(InterruptedRunError):
            run(cfg, stop=StopAfter(stop - done))
        done = torch.load(path / "checkpoint.pt", weights_only=True)["training"]["counters"]["step"]

    def killed(model, split, chunk):
        if chunk.start == 32:
            raise KilledError
        return predict(model, split, chunk)

    with monkeypatch.context() as patch:
        patch.setattr(train, "prediction", killed)
        with pytest.raises(KilledError):
            run(cfg)
    assert status(path)["status"] == "running"
    run(cfg)
    assert_same_stream(whole, path)
    for name in ("summary.json", "stream.csv"):  # killed after the last step
        (path / name).unlink()
    record.write_json(path / "status.json", {**status(path), "status": "running"})
    run(cfg)
    assert_same_stream(whole, path)


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("train.epochs=2", "train.epochs must be 1 with train.stream, got 2"),
        ("train.steps=5", "train.steps must be null with train.stream, got 5"),
        ("train.max_seconds=5", "train.max_seconds must be null"),
        ("train.steps_per_batch=2", "train.steps_per_batch must be 1"),
        ("train.chain_batch_size=5", "train.chain_batch_size must be null .* have not arrived"),
        ("train.growth={start: 10}", "train.growth must be null"),
        ("train.batch_size=21", r"train.batch_size must lie in 1..20 \(train.stream.memory\), got 21"),
        ("train.batch_size=0", "train.batch_size must lie in 1..44"),
        ("train.stream.chunk=0", "train.stream.chunk must be at least 1, got 0"),
        ("train.stream.steps=-1", "train.stream.steps must be at least 1, got -1"),
        ("train.stream.memory=7", "train.stream.memory=7 must hold a chunk of 8"),
        ("train.stream.change=flip", "train.stream.change must be one of rotate, labels, none, got 'flip'"),
        ("train.stream.hindsight_epochs=0", "train.stream.hindsight_epochs must be at least 1"),
    ],
)
def test_settings_that_cannot_be_are_named(tmp_path, override, named):
    with pytest.raises(ValueError, match=named):
        run(short("sgd", tmp_path, override))


def test_a_chunk_of_more_than_half_the_data_is_refused(tmp_path):
    with pytest.raises(ValueError, match="chunk must be at most half of the 44 training samples, got 23"):
        run(short("sgd", tmp_path, "train.stream.chunk=23", "train.stream.memory=30"))


@pytest.mark.parametrize("override", ["train.stream.chunk=many", "train.stream.chunk=2.5", "train.stream.chunks=2"])
def test_settings_of_a_wrong_type_or_name_are_refused_when_composed(tmp_path, override):
    with pytest.raises(ConfigCompositionException, match="chunk"):
        short("sgd", tmp_path, override)


# --- the page


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    out = tmp_path_factory.mktemp("streams")
    for seed in (0, 1):
        for method in ("sgd", "mcmc_dense"):
            run(short(method, out, f"seed={seed}"))
    run(short("sgd", out, "seed=0", "name=sgd_more", "train.stream.steps=4"))
    return out


def own_regret(out, name):
    """Return regret by seed (seeds, chunks + 1), read without the code under test."""
    found = []
    for path in sorted((out / "digits_rotate" / name).iterdir()):
        with (path / "stream.csv").open() as file:
            rows = list(csv.DictReader(file))
        found.append(np.cumsum([0.0, *(float(row["loss"]) - float(row["hindsight_loss"]) for row in rows)]))
    return np.array(found)


def test_the_figure_shows_regret_and_its_difference_paired_by_seed(outputs):
    sets = analysis.groups(analysis.find_runs([outputs]))
    figure = regret(sets, ["sgd"]).figure
    left, right = ({line.get_gid(): line for line in ax.lines if line.get_gid()} for ax in figure.axes)
    names = [group.label for group in sets]
    assert names == ["mcmc_dense", "sgd", "sgd_more"]
    for i, name in enumerate(names):
        line = left[f"regret-{i}"]
        assert line.get_xdata().tolist() == [0, 8, 16, 24, 32, 40, 44]
        assert line.get_ydata() == pytest.approx(own_regret(outputs, name).mean(0))
    apart = own_regret(outputs, "mcmc_dense") - own_regret(outputs, "sgd")
    assert right["regret-difference-0"].get_ydata() == pytest.approx(apart.mean(0))
    more = own_regret(outputs, "sgd_more")[0] - own_regret(outputs, "sgd")[0]  # of the one seed that both have
    assert right["regret-difference-2"].get_ydata() == pytest.approx(more)
    assert "regret-difference-1" not in right
    caption = regret(sets, ["sgd"]).caption.replace("\N{MINUS SIGN}", "-")
    half = 12.706 * abs(apart[0, -1] - apart[1, -1]) / 2  # Student's t of one degree of freedom, sd / sqrt(2)
    mean, low, high = map(float, re.search(r"mcmc_dense (\S+) \[(\S+), (\S+)\] \(n = 2\)", caption).groups())
    assert (mean, high - low) == pytest.approx((apart[:, -1].mean(), 2 * half), abs=0.11)
    assert f"sgd_more {more[-1]:+.1f} (n = 1)" in caption
    for panel, lines in enumerate((left, right)):
        assert list(lines[f"change-{panel}-0"].get_xdata()) == [22, 22]
    alone = regret(sets[:1], ["sgd"])
    assert [line.get_gid() for line in alone.figure.axes[1].lines if line.get_gid()] == ["change-1-0"]


def test_streams_that_differ_are_not_paired(outputs):
    run(short("mcmc_dense", outputs / "other", "train.stream.change=labels", "name=relabelled"))
    sets = analysis.groups(analysis.find_runs([outputs]))
    sets = [group for group in sets if group.name in ("relabelled", "sgd")]
    lines = regret(sets, ["sgd"]).figure.axes[1].lines
    assert not [line for line in lines if (line.get_gid() or "").startswith("regret")]


def test_the_page_has_the_figure_and_the_table(outputs, tmp_path):
    page = plot.plot([outputs / "digits_rotate"], tmp_path / "page")
    assert (page.parent / "regret.svg").exists()
    heads, *found = Page(page.read_text(encoding="utf-8")).tables["stream"]
    with (page.parent / "summary.csv").open() as file:
        rows = {row["label"]: row for row in csv.DictReader(file)}
    assert [cells[0] for cells in found] == list(rows)
    for cells in found:
        cell, row = dict(zip(heads, cells, strict=True)), rows[cells[0]]
        summaries = [json.loads(p.read_text()) for p in (outputs / "digits_rotate" / cells[0]).glob("*/summary.json")]
        for column in tables.STREAMED:
            mean = np.mean([summary[column.measure] for summary in summaries])
            assert float(row[f"{column.measure}_mean"]) == pytest.approx(mean)
            assert cell[column.heading].startswith(f"{mean:,.{column.decimals}f}")
        end = own_regret(outputs, cells[0])[:, -1].mean()
        assert float(row["stream_regret_mean"]) == pytest.approx(end)


def test_runs_without_a_stream_have_neither(tmp_path):
    settings = ("train.epochs=1", "energy=off", "resistance.finetune_at=[]")
    path = run(composed("optimizer=sgd", f"out={tmp_path}", *settings))
    assert not (path / "stream.csv").exists()
    sets = analysis.groups(analysis.find_runs([tmp_path]))
    assert regret(sets, ["sgd"]) is None
    assert not any(key.startswith("stream") for key in analysis.summary_rows(sets)[0])
    assert stream.chosen({"stream": None}) is None
