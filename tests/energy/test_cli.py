"""The command line: a command's own exit code and output, a table of what it used, and a doctor."""

import json
import signal
import subprocess
import sys
import threading
import time

import pytest

from mcmcopt.energy import Report, read_log, summarize
from mcmcopt.energy.__main__ import main
from mcmcopt.energy.doctor import describe, examine, remedy
from mcmcopt.energy.sample import Channel
from mcmcopt.energy.sensors.rapl import GRANT, UDEV
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
    log, file = tmp_path / "log.jsonl", tmp_path / "report.json"
    options = ["--json", str(file), "--cpu-estimate", "5", "--log", str(log)]
    assert main([*options, "--", *PYTHON, "sum(range(3_000_000))"]) == 0
    report = Report.from_dict(json.loads(file.read_text()))
    assert report.total_measured_j is None or report.total_measured_j >= 0
    assert summarize(read_log(log)).total_estimated_j >= report.total_estimated_j > 0
    assert {p.name for p in tmp_path.iterdir()} == {"log.jsonl", "report.json"}


def test_a_termination_is_handed_on_and_the_report_still_comes(tmp_path):
    code = (
        "import signal, sys, time\nsignal.signal(15, lambda *_: sys.exit(9))\nprint('up', flush=True)\ntime.sleep(20)"
    )
    log = tmp_path / "log.jsonl"
    run = subprocess.Popen(
        [sys.executable, "-m", "mcmcopt.energy", "--log", str(log), "--", *PYTHON, code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert run.stdout.readline() == b"up\n"
    run.terminate()
    _, err = run.communicate(timeout=20)
    assert run.returncode == 9
    assert b"Energy of command" in err
    assert '"type":"report"' in log.read_text().splitlines()[-1]


def test_a_rest_that_cannot_be_measured_does_not_keep_the_command_from_running(monkeypatch, capfd):
    monkeypatch.setattr("mcmcopt.energy.meter.measure_idle", no_rest)
    assert main(["--idle", "2", "--", *PYTHON, "print('ran')"]) == 0
    out, err = capfd.readouterr()
    assert out == "ran\n"
    assert "--idle: no rest" in err


def no_rest(*args):
    raise RuntimeError("no rest")


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--"],
        ["doctor", "--", "true"],
        ["--period", "0", "--", "true"],
        ["--cpu-estimate", "x", "--", "t"],
        ["--idle", "1", "--", "t"],
        ["--log", "/dev/null/x", "--", "t"],
        ["--json", "/nowhere/at/all/report.json", "--", "t"],
        ["--json", "/", "--", "t"],
    ],
)
def test_a_wrong_line_says_what_is_wrong_and_runs_nothing(arguments, capsys):
    with pytest.raises(SystemExit) as error:
        main(arguments)
    assert error.value.code == 2
    assert "usage" in capsys.readouterr().err


def test_a_report_that_could_not_be_written_is_refused_before_the_command_runs(tmp_path, capsys):
    ran = tmp_path / "ran"
    with pytest.raises(SystemExit) as error:
        main(["--json", str(tmp_path / "missing" / "report.json"), "--", *PYTHON, f"open({str(ran)!r}, 'w')"])
    assert error.value.code == 2
    assert "--json" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_command_can_be_run_from_another_thread_than_the_main_one(capfd):
    codes, before = [], signal.getsignal(signal.SIGTERM)
    other = threading.Thread(target=lambda: codes.append(main(["--", *PYTHON, "raise SystemExit(5)"])))
    other.start()
    other.join(20)
    assert codes == [5]
    assert "Energy of command" in capfd.readouterr().err
    assert signal.getsignal(signal.SIGTERM) is before


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


def test_the_doctor_gives_a_command_of_least_privilege_that_can_be_pasted(tmp_path):
    machine = FakeMachine(tmp_path, "forbidden", FakeClock())
    page = describe(examine("rapl", sysfs_root=machine.root, opener=machine, cpu_estimate=None))
    assert page.count("permission denied") == 5
    assert page.count(GRANT) == 1
    assert "not measured" in page
    (command,) = [line for line in page.splitlines() if line.startswith("sudo")]
    # a shell runs it, with commands that only write down what they are asked for
    asked = tmp_path / "asked"
    stubs = f'sudo() {{ echo "$@" >> {asked}; if [ $1 = tee ]; then cat > {tmp_path}/rule; fi; }}'
    subprocess.run(["bash", "-c", f"set -e\n{stubs}\nUSER=me\n{command}"], check=True)
    assert (tmp_path / "rule").read_text() == UDEV + "\n"
    assert asked.read_text().splitlines() == [
        "groupadd -f rapl",
        "usermod -aG rapl me",
        "tee /etc/udev/rules.d/60-rapl.rules",
        "udevadm control --reload",
        "udevadm trigger --subsystem-match=powercap --action=add",
    ]


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
