"""Our energy meter beside its peers, on fake machines that know the true joules.

    python benchmarks/energy_peers.py [--only mcmcopt codecarbon zeus …] [--write docs/results/energy_peers.md]

No clock and no hardware is involved: the same numbers come out every time.  Peers that are not installed are left out;
how each is driven, and what of it is patched, stands at the head of its adapter in `tests/peers/`.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import importlib.metadata
import io
import sys
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mcmcopt import __version__
from tests.peers import extra, ours
from tests.peers.scripts import SCENARIOS, Scenario

COLUMNS = ("mcmcopt", "codecarbon", "zeus", "pyJoules", "carbontracker")
ADAPTERS = {"codecarbon": "tests.peers.codecarbon_", "zeus": "tests.peers.zeus_"}
NEEDS = {"pyJoules": "pyJoules.energy_meter", "carbontracker": "carbontracker.components.component"}
OFF = 0.005
PINS = "codecarbon==3.3.2 zeus==0.16.0 pyJoules==0.5.1 carbontracker==2.4.7"

PAGE = """# The energy meter beside its peers

```
pip install {pins}
python benchmarks/energy_peers.py --write docs/results/energy_peers.md
```

Joules that each meter reports on the same fake machine, through the same [script](../../tests/peers/scripts.py);
nothing but software is compared, and no clock is involved: the table is the same every time. **Bold**: off by more
than 0.5 %. –: not installed, or not measured by it.

{versions}.

{table}

How to read it:

- Each meter samples at its own default pace, in the scenario's time; ours reads counters every 15 s here, as codecarbon
  does, though its default is 1 s. An unreadable counter is an empty file, for all alike.
- After a reset ours says less than the truth by design: it flags `reset`, and the 15 s in which it happened as lost.
  A reset looks like a wrap unless there is a bound on the power. carbontracker is right there because it multiplies a
  mean power, here constant, by the time.
- codecarbon leaves out DRAM that lies inside a package (`rapl_include_dram` is set). Its estimate of memory by the size
  of the modules is not in the table.
- zeus gives joules per zone and no total; those of package zones, and of DRAM where it counts, are added here. Its
  helpers notice a wrap at their next poll, here up to 0.1 s later: a window that is read before that lacks a counter's
  whole range, a later one is right.
- zeus sends a GPU's power only when it changes, so a constant one gives it less than two samples, and after a jump it
  joins two far points by a line. The power of real boards flickers: the row with 249 to 251 W is nearer to them.
- pyJoules integrates no power, and does not know zones called `package-0-die-0`. carbontracker takes the mean over
  devices times the time, so several packages come out as one.

The peers' helper processes run as threads on the fake clock; the heads of
[codecarbon_.py](../../tests/peers/codecarbon_.py), [zeus_.py](../../tests/peers/zeus_.py) and
[extra.py](../../tests/peers/extra.py) say exactly what is replaced.
"""


def find(only: tuple[str, ...] = COLUMNS) -> dict[str, Any]:
    """Return the adapters of the columns that can be filled."""
    found: dict[str, Any] = {}
    for name in only:
        with contextlib.suppress(ModuleNotFoundError), _silence():
            if name == "mcmcopt":
                found[name] = ours
            elif name in ADAPTERS:
                found[name] = importlib.import_module(ADAPTERS[name])
            else:
                importlib.import_module(NEEDS[name])
                found[name] = extra.PYJOULES if name == "pyJoules" else extra.CARBONTRACKER
    return found


def cell(scenario: Scenario, meter: ModuleType | None) -> str:
    """Return what a meter says of a scenario, for the table."""
    if meter is None:
        return "–"
    with tempfile.TemporaryDirectory() as folder, _silence():
        said = meter.measure(scenario, Path(folder))
    if said is None:
        return "–"
    text = f"{said:,.1f}".replace("-", "−")
    return f"**{text}**" if abs(said - scenario.truth_j) > OFF * scenario.truth_j else text


def table(found: dict[str, Any]) -> str:
    """Return all scenarios with all meters, as Markdown."""
    head = f"| J | truth | {' | '.join(COLUMNS)} |\n|---|{'---:|' * (1 + len(COLUMNS))}\n"
    rows = (
        f"| {s.name} | {s.truth_j:,.1f} | {' | '.join(cell(s, found.get(name)) for name in COLUMNS)} |"
        for s in SCENARIOS
    )
    return head + "\n".join(rows)


def versions(found: dict[str, Any]) -> str:
    """Return the versions of what was compared, in words."""
    parts = [f"{n} {__version__ if n == 'mcmcopt' else importlib.metadata.version(n)}" for n in COLUMNS if n in found]
    missing = [name for name in COLUMNS if name not in found]
    return ", ".join(parts) + (f"; without {', '.join(missing)}" if missing else "")


def _silence() -> Any:
    """Keep what peers print when they find no hardware of their own out of the table."""
    stack = contextlib.ExitStack()
    stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
    stack.enter_context(contextlib.redirect_stderr(io.StringIO()))
    return stack


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=COLUMNS, default=list(COLUMNS), help="columns to fill")
    parser.add_argument("--write", type=Path, help="a page that receives the table")
    parsed = parser.parse_args(arguments)
    found = find(tuple(parsed.only))
    text = table(found)
    print(text)
    if parsed.write is not None:
        page = PAGE.format(pins=PINS, versions=versions(found), table=text)
        temporary = parsed.write.with_name(parsed.write.name + ".part")
        temporary.write_text(page, encoding="utf-8")
        temporary.replace(parsed.write)


if __name__ == "__main__":
    main()
