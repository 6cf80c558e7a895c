"""The command line: a command's own exit code and output, a table of what it used, and a doctor."""

import json
import signal
import subprocess
import sys
import time

import pytest

from mcmcopt.energy import read_log, summarize
from mcmcopt.energy.__main__ import main
from mcmcopt.energy.doctor import describe, examine, remedy
from mcmcopt.energy.sample import Channel
from mcmcopt.energy.sensors.rapl import UDEV
from tests.energy.fakes import FakeClock, FakeMachine

PYTHON = [sys.executable, "-c"]


@pytest.mark.parametrize("code", [0, 3])
def test_the_exit_code_is_the_commands(code, capfd):
    assert main(["--cpu-estimate", "5", "--", *PYTHON, f"print('its own'); raise SystemExit({code})"]) == code
    out, err = capfd.readouterr()
    assert out == "its own\n"
    assert "Energy of command" in err
    assert "estimated" in err
    assert "not measured" in err or "measured" in err


def test_a_command_that_is_killed_gives_what_a_shell_gives(capfd):
    assert main(["--", *PYTHON, "import os; os.kill(os.getpid(), 9)"]) == 128 + signal.SIGKILL


def test_a_command_that_is_not_there_is_named(capfd):
    assert main(["--", "no-such-command"]) == 127
    assert "no-such-command" in capfd.readouterr().err


def test_the_report_as_json_and_the_log_agree(tmp_path, capfd):
    log = tmp_path / "log.jsonl"
    assert main(["--json", "--cpu-estimate", "5", "--log", str(log), "--", *PYTHON, "sum(range(3_000_000))"]) == 0
    report = json.loads(capfd.readouterr().err)
    assert report["total_measured_j"] is None or report["total_measured_j"] >= 0
    assert summarize(read_log(log)).total_estimated_j >= report["total_estimated_j"] > 0


@pytest.mark.parametrize(
    "arguments",
    [[], ["--"], ["doctor", "--", "true"], ["--period", "0", "--", "true"], ["--cpu-estimate", "x", "--", "t"]],
)
def test_a_wrong_line_says_what_is_wrong_and_runs_nothing(arguments, capsys):
    with pytest.raises(SystemExit) as error:
        main(arguments)
    assert error.value.code == 2
    assert "usage" in capsys.readouterr().err


def test_ctrl_c_is_the_commands_to_answer():
    code = "import signal, sys, time\nsignal.signal(2, lambda *_: sys.exit(7))\nprint('up', flush=True)\ntime.sleep(20)"
    run = subprocess.Popen(
        [sys.executable, "-m", "mcmcopt.energy", "--", *PYTHON, code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    assert run.stdout.readline() == b"up\n"
    time.sleep(0.1)
    signal_group(run.pid)
    _, err = run.communicate(timeout=20)
    assert run.returncode == 7
    assert b"Energy of command" in err


def signal_group(pid):
    import os

    os.killpg(pid, signal.SIGINT)  # as a terminal does: to the meter and to the command


def test_the_doctor_names_each_sensor_and_the_command_that_would_enable_it(capsys):
    assert main(["doctor"]) == 0
    page = capsys.readouterr().out
    for sensor in ("rapl", "nvml", "hwmon", "cpu_estimate"):
        assert sensor in page


def test_the_doctor_gives_the_rule_of_least_privilege(tmp_path):
    machine = FakeMachine(tmp_path, "forbidden", FakeClock())
    page = describe(examine("rapl", sysfs_root=machine.root, opener=machine, cpu_estimate=None))
    assert page.count("permission denied") == 5
    assert page.count(UDEV) == 1
    assert "chmod -R 755" not in page
    assert "not measured" in page


def test_the_doctor_says_what_is_used(tmp_path):
    machine = FakeMachine(tmp_path, "laptop", FakeClock())
    page = describe(examine("rapl", sysfs_root=machine.root, opener=machine, cpu_estimate=5.0))
    assert "rapl:package-0: used, its energy counter" in page
    assert "rapl:psys: used, its energy counter; wraps after 262,143 J (shown, not added" in page
    assert "Energy is measured: rapl:package-0." in page
    assert "5 W per core" in page
    assert "help" not in page


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        ("no RAPL on this machine: /sys/class/powercap is missing", "modprobe"),
        ("it has zones whose folders are masked, as in containers", "host"),
        ("python -m pip install nvidia-ml-py", "nvidia-ml-py"),
        ("something else", ""),
    ],
)
def test_each_reason_has_its_remedy(reason, words):
    found = remedy(Channel("x", "gpu", "x", "absent", reason=reason))
    assert words in found
    assert bool(found) == bool(words)
