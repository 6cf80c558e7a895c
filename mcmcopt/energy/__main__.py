"""python -m mcmcopt.energy -- COMMAND …   runs a command and prints what it used; the exit code is the command's.
python -m mcmcopt.energy doctor          says for each sensor why it is used or not.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import warnings
from collections.abc import Sequence
from typing import Literal

from mcmcopt.energy.doctor import describe, examine
from mcmcopt.energy.errors import EnergyWarning
from mcmcopt.energy.meter import EnergyMeter
from mcmcopt.energy.report import Report


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    cut = given.index("--") if "--" in given else len(given)
    parser = argparse.ArgumentParser(
        "python -m mcmcopt.energy", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("what", nargs="?", choices=["doctor"], help="examine the sensors")
    parser.add_argument("--log", help="append samples to this file")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
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
    estimate: float | Literal["table"] | None = None
    try:
        if options.cpu_estimate is not None:
            estimate = "table" if options.cpu_estimate == "table" else float(options.cpu_estimate)
        meter = EnergyMeter(period_s=options.period, log=options.log, cpu_estimate=estimate)
    except ValueError as error:
        parser.error(str(error))
    code, report = _run(meter, command, options.idle)
    # the command's own output stays what it is: the table goes to the error stream
    print(report.to_json(indent=2) if options.json else str(report), file=sys.stderr)  # noqa: T201
    return code


def _run(meter: EnergyMeter, command: Sequence[str], idle: float) -> tuple[int, Report]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", EnergyWarning)  # the table says the same
        with meter:
            if idle:
                meter.calibrate_idle(idle)
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
    """Wait for a command; Ctrl-C reaches it by itself, and it decides."""
    while True:
        try:
            code = child.wait()
        except KeyboardInterrupt:
            continue
        return code if code >= 0 else 128 - code


def _say(text: str, error: bool = False) -> None:
    print(text, file=sys.stderr if error else sys.stdout)


if __name__ == "__main__":
    sys.exit(main())
