"""The log: whole lines appended, never an earlier one touched, and after kill -9 all that was measured is there."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mcmcopt.energy import Report, read_log, summarize
from mcmcopt.energy.log import Log, LogWriter
from mcmcopt.energy.report import Baseline
from mcmcopt.energy.sample import Sample
from tests.energy.fakes import FakeMachine
from tests.energy.rig import ONE, PACKAGE, StubProcesses, make_meter, rig, run

ROOT = Path(__file__).parents[2]
VICTIM = """
import sys
from pathlib import Path
from tests.energy.rig import ONE, rig
machine, meter = rig(Path(sys.argv[1]), ONE, log=Path(sys.argv[1]) / "log")
meter.start()
while True:
    machine.advance(0.5)
    meter.tick()
"""


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run" / "energy.jsonl"


def logged(tmp_path, path, preset="server", seconds=5, **settings):
    machine, meter = rig(tmp_path, preset, log=path, **settings)
    with meter:
        run(machine, meter, seconds=seconds)
    return meter


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_run_that_was_killed_is_read_and_summed_up_to_its_last_sample(tmp_path):
    path = tmp_path / "log"
    victim = subprocess.Popen([sys.executable, "-c", VICTIM, str(tmp_path)], cwd=ROOT)
    try:
        for _ in range(1000):
            if path.exists() and path.stat().st_size > 20_000:
                break
            time.sleep(0.01)
    finally:
        victim.send_signal(signal.SIGKILL)
        assert victim.wait(10) == -signal.SIGKILL
    log = read_log(path)
    assert len(log) > 50
    assert all(line["type"] != "report" for line in lines(path)[:-1])
    report = summarize(log)
    assert report.duration_s == 0.5 * (len(log) - 1)
    assert report.total_measured_j == 60.0 * (len(log) - 1)
    assert report.coverage == 1.0


@pytest.mark.parametrize("cut", [1, 2, 10, 60])
def test_a_torn_last_line_is_left_out_and_a_later_segment_begins_on_its_own_line(tmp_path, path, cut):
    machine = FakeMachine(tmp_path, ONE)
    with make_meter(machine, log=path) as meter:
        run(machine, meter, seconds=5)
    whole = path.read_bytes().splitlines(keepends=True)
    torn = b"".join(whole[:-2]) + whole[-2][:-cut]  # killed while it wrote the last sample
    path.write_bytes(torn)
    log = read_log(path)
    assert len(log) == (7 if cut == 1 else 6)  # but for its end the line is whole
    assert summarize(log).total_measured_j == 600.0
    with make_meter(machine, log=path) as meter:
        run(machine, meter, seconds=2)
    assert path.read_bytes().startswith(torn)
    log = read_log(path)
    assert [len(segment.samples) for segment in log.segments] == [7 if cut == 1 else 6, 4]
    assert summarize(log).total_measured_j == 840.0


def test_a_torn_multibyte_character_is_a_torn_line(tmp_path, path):
    machine, meter = rig(tmp_path, ONE, log=path)
    with meter:
        with meter.window("épöche"):
            machine.advance(1)
        data = path.read_bytes()
    path.write_bytes(data[: data.rindex("ö".encode()) + 1])
    assert len(read_log(path)) == 2


def test_a_line_that_was_torn_in_the_middle_is_left_out_and_counted(tmp_path, path):
    """Another meter may go on writing behind a torn line."""
    report = logged(tmp_path, path, ONE).report
    text = path.read_text().splitlines()
    path.write_text("\n".join([*text[:3], text[3][:20], *text[4:]]) + "\n")
    log = read_log(path)
    assert log.torn == (4,)
    assert summarize(log).total_measured_j == report.total_measured_j


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"type":"sample","t_s":1.0,"unix_s":1.0}\n', "before any header"),
        ('{"type":"header","schema":99,"channels":[],"period_s":1}\n', "schema 1"),
        ('{"type":"header","schema":1,"channels":[],"period_s":1}\n{"type":"what"}\n', "line 2.*'what'"),
        ("a\nb\n", "line 1"),
    ],
)
def test_what_is_no_log_is_refused_by_line(path, text, words):
    path.parent.mkdir()
    path.write_text(text)
    with pytest.raises(ValueError, match=words):
        read_log(path)


def test_appending_keeps_every_byte_of_what_was_there(tmp_path, path):
    path.parent.mkdir()
    beside = path.parent / "metadata.json"
    beside.write_text("{}")
    kept = b""
    for number in range(3):
        logged(tmp_path / str(number), path)
        now = path.read_bytes()
        assert now.startswith(kept)
        assert len(now) > len(kept)
        kept = now
    assert len(read_log(path).segments) == 3
    assert beside.read_text() == "{}"


def test_stop_and_start_of_one_meter_are_two_segments_that_add_up(tmp_path, path):
    machine, meter = rig(tmp_path, ONE, log=path)
    for _ in range(2):
        with meter:
            run(machine, meter, seconds=3)
        machine.advance(100.0)
    report = summarize(read_log(path))
    assert (report.total_measured_j, report.duration_s, report.meta["segments"]) == (720.0, 6.0, 2)


def test_header_first_report_last_one_line_each_whole_numbers_whole(tmp_path, path):
    meter = logged(tmp_path, path, idle_w=10.0)
    entries = lines(path)
    assert [e["type"] for e in entries] == ["header", "baseline", *["sample"] * 7, "report"]
    header = entries[0]
    assert {"schema", "host", "boot_id", "versions", "channels", "period_s"} <= header.keys()
    assert [c["id"] for c in header["channels"]] == [c.id for c in meter.channels]
    for entry in entries[2:-1]:
        assert len(entry["uj"]) == 4
        assert all(type(value) is int for value in entry["uj"].values())
    assert ".0" not in path.read_text().split('"uj":{', 1)[1].split("}", 1)[0]
    assert Report.from_dict({k: v for k, v in entries[-1].items() if k != "type"}) == meter.report


def test_large_counters_keep_every_digit(path):
    writer = LogWriter(path)
    writer.header((), 1.0, {})
    sample = Sample(0.1 + 0.2, 1.7e9 + 0.1, uj={"a": 2**64 - 1}, w={"b": 1 / 3}, flags={"": ("x", "y")}, span_s=1e-6)
    writer.sample(sample)
    writer.close()
    writer.close()
    assert read_log(path)[0] == sample
    assert type(read_log(path)[0].uj["a"]) is int


def test_channels_and_samples_come_back_as_they_were(tmp_path, path, monkeypatch):
    seen, write = [], LogWriter.sample
    monkeypatch.setattr(LogWriter, "sample", lambda self, sample: seen.append(sample) or write(self, sample))
    machine, meter = rig(tmp_path, "laptop", log=path)
    with meter:
        machine.fail_next_read("psys")
        with meter.window("epoch", step=3, note="a\nb"):
            machine.advance(1)
    segment = read_log(path).segments[0]
    assert segment.channels == meter.channels
    assert segment.period_s == 1.0
    assert segment.samples == seen
    assert segment.samples[1].mark == {"window": "epoch", "edge": "begin", "step": 3, "note": "a\nb"}
    assert segment.samples[1].flags == {"rapl:psys": ("read_error",)}


def test_a_report_comes_back_from_json_as_it_was(tmp_path):
    machine, meter = rig(tmp_path, "server", idle_w=100.0)
    with meter, meter.window("w", step=1):
        run(machine, meter, seconds=3)
        machine.reset("package-0")
        run(machine, meter, seconds=3)
    assert Report.from_dict(json.loads(meter.report.to_json())) == meter.report
    with pytest.raises(ValueError, match="schema"):
        Report.from_dict({**meter.report.to_dict(), "schema": 2})


def test_each_line_is_one_write(tmp_path, path, monkeypatch):
    written, write = [], os.write
    monkeypatch.setattr(os, "write", lambda fd, data: written.append(bytes(data)) or write(fd, data))
    logged(tmp_path, path, ONE)
    assert len(written) == len(path.read_bytes().splitlines())
    assert all(data.endswith(b"\n") and data.count(b"\n") == 1 for data in written)


def test_two_meters_that_log_to_one_file_at_once_keep_their_own_joules(tmp_path, path):
    machines = [FakeMachine(tmp_path / str(n), ONE) for n in range(2)]
    machines[1].power["package-0"] = 60.0
    meters = [make_meter(machine, log=path).start() for machine in machines]
    for _ in range(5):
        for machine, meter in zip(machines, meters, strict=True):
            machine.advance(1)
            meter.tick()
    true = [meter.stop().total_measured_j for meter in meters]
    assert true == [600.0, 300.0]
    log = read_log(path)
    assert [summarize(Log([segment])).total_measured_j for segment in log.segments] == true
    with pytest.raises(ValueError, match="rapl:package-0 at the same time"):  # on one machine they are the same joules
        summarize(log)


@pytest.mark.parametrize("value", [math.nan, object()], ids=["nan", "object"])
def test_an_attribute_that_no_log_can_hold_ends_no_training_and_is_refused_by_name_if_at_all(tmp_path, path, value):
    machine, meter = rig(tmp_path, ONE, log=path)
    with meter:
        refusal = None
        try:
            window = meter.window("epoch", loss=value)
        except (TypeError, ValueError) as error:
            refusal = str(error)
        if refusal is None:
            with window:
                machine.advance(1)
    assert refusal is None or "loss" in refusal


def test_an_attribute_cannot_change_which_edge_a_mark_is(tmp_path, path):
    machine, meter = rig(tmp_path, ONE, log=path)
    with meter, meter.window("epoch", edge="sharp"):
        machine.advance(1)
    assert [s.mark["edge"] for s in read_log(path) if s.mark] == ["begin", "end"]


def test_memory_of_the_process_is_the_most_that_was_seen(tmp_path, path):
    stub = StubProcesses()
    machine, meter = rig(tmp_path, ONE, log=path, processes=stub)
    with meter:
        for size in (10, 30, 20):
            stub.rss_bytes = size * 10**6
            run(machine, meter, seconds=1)
            stub.rss_bytes = 15 * 10**6
    assert meter.report.memory.process_bytes == 10**8
    assert summarize(read_log(path)).memory == meter.report.memory
    assert meter.report.channels[PACKAGE].energy_j == 360.0


def test_each_power_at_rest_belongs_to_the_meter_that_wrote_it(path):
    """Whichever header is the latest: two meters measure their rest while the other one writes."""
    a, b = LogWriter(path), LogWriter(path)
    for writer in (a, b):
        writer.header((), 1.0, {})
    a.baseline(Baseline(10.0, None, None, "given"))
    b.baseline(Baseline(20.0, None, None, "given"))
    a.baseline(Baseline(11.0, 0.5, 30.0, "measured"))
    for writer in (a, b):
        writer.close()
    assert [segment.baseline.w for segment in read_log(path).segments] == [11.0, 20.0]


def test_in_a_log_of_before_lines_said_whose_they_are_each_header_begins_a_segment(tmp_path, path):
    machine = FakeMachine(tmp_path, ONE)
    for seconds, idle_w in ((3, 10.0), (5, 20.0)):
        with make_meter(machine, log=path, idle_w=idle_w) as meter:
            run(machine, meter, seconds=seconds)
        machine.advance(100.0)
    new = read_log(path)
    path.write_text("".join(json.dumps({k: v for k, v in e.items() if k != "of"}) + "\n" for e in lines(path)))
    old = read_log(path)
    assert '"of"' not in path.read_text()
    assert [len(segment.samples) for segment in old.segments] == [5, 7]
    assert [segment.baseline.w for segment in old.segments] == [10.0, 20.0]
    assert list(old) == list(new)
    assert summarize(old) == summarize(new)
    assert summarize(old).total_measured_j == 960.0
