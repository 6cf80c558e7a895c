"""python -m mcmcopt.energy -- COMMAND …   runs a command and prints what it used; the exit code is the command's.
python -m mcmcopt.energy doctor          says for each sensor why it is used or not.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from mcmcopt.energy.doctor import describe, examine
from mcmcopt.energy.errors import EnergyWarning
from mcmcopt.energy.meter import EnergyMeter
from mcmcopt.energy.report import Report
from mcmcopt.files import replacing


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    cut = given.index("--") if "--" in given else len(given)
    parser = argparse.ArgumentParser(
        "python -m mcmcopt.energy", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("what", nargs="?", choices=["doctor"], help="examine the sensors")
    parser.add_argument("--log", help="append samples to this file")
    parser.add_argument("--json", metavar="FILE", help="write the report to this file")
    parser.add_argument("--period", type=float, default=1.0, help="seconds between two samples")
    parser.add_argument("--cpu-estimate", help='watts per core, or "table"; an estimate for machines without a sensor')
    parser.add_argument("--idle", type=float, default=0.0, help="seconds to measure the machine at rest for, before")
    options = parser.parse_args(given[:cut])
    command = given[cut + 1 :]
    if options.what == "doctor":
        if command:
            parser.error("doctor runs no command")
        _say(describe(examine()))
        return 0
    if not command:
        parser.error("give a command after --, or doctor")
    if options.idle and not 2 <= options.idle < float("inf"):
        parser.error(f"--idle must be at least 2 seconds, got {options.idle}")
    if options.json and (Path(options.json).is_dir() or not Path(options.json).absolute().parent.is_dir()):
        parser.error(f"--json must be a file in a folder that exists, got {options.json}")
    try:
        meter = EnergyMeter(period_s=options.period, log=options.log, cpu_estimate=_watts(options.cpu_estimate))
    except ValueError as error:
        parser.error(str(error))
    try:
        code, report = _run(meter, command, options.idle)
    except OSError as error:
        parser.error(f"--log: {error}")
    _say(str(report), error=True)  # the command's own output stays what it is
    if options.json:
        try:
            with replacing(Path(options.json)) as temporary:
                temporary.write_text(report.to_json(indent=2) + "\n", encoding="utf-8")
        except OSError as error:
            _say(f"--json: {error}", error=True)
    return code


def _watts(text: str | None) -> float | Literal["table"] | None:
    if text is None or text == "table":
        return None if text is None else "table"
    try:
        return float(text)
    except ValueError:
        raise ValueError(f'--cpu-estimate must be watts per core or "table", got {text!r}') from None


def _run(meter: EnergyMeter, command: Sequence[str], idle: float) -> tuple[int, Report]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", EnergyWarning)  # the table says the same
        with meter:
            if idle:
                try:
                    meter.calibrate_idle(idle)
                except RuntimeError as error:
                    _say(f"--idle: {error}", error=True)
            with meter.window("command") as window:
                try:
                    child = subprocess.Popen(command)  # noqa: S603 -- the user's own command
                except OSError as error:
                    _say(f"{command[0]}: {error.strerror}", error=True)
                    code = 127 if isinstance(error, FileNotFoundError) else 126
                else:
                    code = _wait(child)
    return code, window.report


def _wait(child: subprocess.Popen[bytes]) -> int:
    """Wait for a command; Ctrl-C reaches it by itself, a termination is handed on, and it decides."""
    try:
        before = signal.signal(signal.SIGTERM, lambda number, frame: child.send_signal(number))
    except ValueError:  # in another thread than the main one signals are not ours
        before = None
    try:
        while True:
            try:
                code = child.wait()
            except KeyboardInterrupt:
                continue
            return code if code >= 0 else 128 - code
    finally:
        if before is not None:
            signal.signal(signal.SIGTERM, before)


def _say(text: str, error: bool = False) -> None:
    print(text, file=sys.stderr if error else sys.stdout)


if __name__ == "__main__":
    sys.exit(main())
