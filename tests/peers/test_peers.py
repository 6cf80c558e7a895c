"""Ours says the truth in every scenario, and agrees with the peers where they say it too.

That a peer is wrong is never asserted: it will be fixed, and `benchmarks/energy_peers.py` will print so.
"""

import pytest

from benchmarks import energy_peers
from tests.peers import ours
from tests.peers.scripts import LSB_J, SCENARIOS, Bench, Scenario

BY_NAME = {scenario.name.partition(",")[0]: scenario for scenario in SCENARIOS}
RESET = BY_NAME["counter reset after 20 of 45 s"]
INTEGRAL = 0.005
UNITS = 1e-6
"""codecarbon's kWh in a µJ has six digits."""


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_the_truth_is_what_passed(scenario, tmp_path):
    bench = Bench(scenario, tmp_path)
    bench.play()
    assert bench.true_j == pytest.approx(scenario.truth_j, abs=1e-6)


@pytest.mark.parametrize("scenario", [s for s in SCENARIOS if s is not RESET], ids=lambda scenario: scenario.name)
def test_ours_says_the_truth(scenario, tmp_path):
    said = ours.measure(scenario, tmp_path)
    assert said == pytest.approx(scenario.truth_j, **({"abs": 2e-6} if scenario.exact else {"rel": INTEGRAL}))


def test_a_reset_is_flagged_and_never_adds(tmp_path):
    report = ours.report(RESET, tmp_path)
    package = report.channels["rapl:package-0"]
    assert report.cpu_j == pytest.approx(3600.0, abs=1e-6)
    assert "reset" in package.flags
    assert package.lost_s == pytest.approx(15.0)
    assert package.coverage == pytest.approx(30 / 45)


def test_a_failed_read_is_flagged(tmp_path):
    report = ours.report(BY_NAME["1 failed read of 4"], tmp_path)
    assert report.channels["rapl:package-0"].flags == ("read_error",)
    assert report.channels["rapl:package-1"].flags == ()
    assert report.coverage == 1.0


@pytest.mark.parametrize(
    "name", ["steady laptop", "wrap half-way through a window of 60 s", "wrap 0.03 s before the window is read"]
)
def test_codecarbon_agrees_on_one_package(name, tmp_path):
    peer = pytest.importorskip("tests.peers.codecarbon_")
    scenario = BY_NAME[name]
    assert peer.measure(scenario, tmp_path / "peer") == pytest.approx(
        ours.measure(scenario, tmp_path / "ours"), rel=UNITS, abs=LSB_J
    )


def test_codecarbon_agrees_on_mirrored_dies(tmp_path):
    peer = pytest.importorskip("tests.peers.codecarbon_")
    scenario = BY_NAME["AMD"]
    assert peer.measure(scenario, tmp_path / "peer") == pytest.approx(
        ours.measure(scenario, tmp_path / "ours"), rel=UNITS
    )


@pytest.mark.parametrize(
    "name",
    ["steady laptop", "steady server", "packages and DRAM of two sockets", "wrap half-way through a window of 60 s"],
)
def test_zeus_agrees_on_packages_and_dram(name, tmp_path):
    peer = pytest.importorskip("tests.peers.zeus_")
    scenario = BY_NAME[name]
    assert peer.measure(scenario, tmp_path / "peer") == pytest.approx(
        ours.measure(scenario, tmp_path / "ours"), abs=LSB_J
    )


@pytest.mark.parametrize("module", ["codecarbon_", "zeus_"])
def test_a_peer_agrees_on_a_gpu(module, tmp_path):
    peer = pytest.importorskip(f"tests.peers.{module}")
    for name in ("GPU with counter: bursts of 0.73 s", "GPU without counter: 249 to 251 W"):
        scenario = BY_NAME[name]
        said = peer.measure(scenario, tmp_path / "peer" / name), ours.measure(scenario, tmp_path / "ours" / name)
        assert said[0] == pytest.approx(said[1], rel=UNITS if scenario.exact else INTEGRAL)


def test_the_bench_keeps_everybody_s_pace(tmp_path):
    bench = Bench(Scenario("", "laptop", 300.0, (("pass", 10.0),)), tmp_path)
    calls, polls = [], []

    def loop():
        while True:
            polls.append(bench.clock() - bench.begun_s)
            bench.sleep(2.5)

    bench.every(3.0, lambda: calls.append(bench.clock() - bench.begun_s))
    poller = bench.poller(loop)
    poller.start()
    bench.play()
    bench.close()
    assert calls == [3.0, 6.0, 9.0]
    assert polls == [0.0, 2.5, 5.0, 7.5]
    assert not poller.is_alive()


def test_a_loop_that_breaks_on_the_bench_is_not_the_peer_s_fault(tmp_path):
    bench = Bench(Scenario("", "laptop", 30.0, (("pass", 1.0),)), tmp_path)
    bench.poller(lambda: {}["no such thing"]).start()
    bench.play()
    with pytest.raises(RuntimeError, match="does not run on the bench"):
        bench.close()


def test_the_page_is_written(tmp_path, capsys):
    page = tmp_path / "page.md"
    energy_peers.main(["--only", "mcmcopt", "--write", str(page)])
    table = capsys.readouterr().out.strip()
    assert table in page.read_text(encoding="utf-8")
    for scenario in SCENARIOS:
        assert f"| {scenario.name} | {scenario.truth_j:,.1f} |" in table
    assert "python benchmarks/energy_peers.py --write docs/results/energy_peers.md" in page.read_text(encoding="utf-8")
