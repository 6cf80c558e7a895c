"""A report for other programs: a table in a file, Prometheus' text format, a figure.

A channel that is absent, or a total that is not known, gives an empty cell or no sample: never a zero.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from mcmcopt.energy.report import Report
from mcmcopt.files import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMNS = (
    "id", "kind", "device", "provenance", "duration_s", "energy_j", "mean_w", "coverage", "uncertainty_j", "lost_s",
    "integral_j", "counted", "flags", "reason",
)  # fmt: skip
COLOURS = {"cpu_package": "tab:blue", "dram": "tab:green", "gpu": "tab:orange", "board": "tab:purple"}
PALE = 0.35


def to_csv(report: Report, path: str | os.PathLike[str]) -> None:
    """Write one row per channel, then rows of the totals, J, W and s as the heads say; what is not known stays empty.

    Args:
        report: to be written.
        path: of the file; it is replaced in one step.

    Raises:
        FileNotFoundError: if its folder does not exist.
    """
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, restval="", lineterminator="\n")
        writer.writeheader()
        for row in _rows(report):
            writer.writerow({name: "" if value is None else value for name, value in row.items()})


def _rows(report: Report) -> Iterator[dict[str, Any]]:
    for name, r in report.channels.items():
        yield {
            "id": name, "kind": r.kind, "device": r.device, "provenance": r.provenance,
            "duration_s": report.duration_s, "energy_j": r.energy_j, "mean_w": r.mean_w, "coverage": r.coverage,
            "uncertainty_j": r.uncertainty_j, "lost_s": r.lost_s, "integral_j": r.integral_j,
            "counted": str(r.counted).lower(), "flags": " ".join(r.flags), "reason": r.reason,
        }  # fmt: skip
    process = report.process
    totals: tuple[tuple[str, str, float | None, float | None], ...] = (
        ("cpu", "measured", report.cpu_j, None),
        ("dram", "measured", report.dram_j, None),
        ("gpu", "measured", report.gpu_j, None),
        ("measured", "measured", report.total_measured_j, report.coverage),
        ("estimated", "estimated", report.total_estimated_j, None),
        ("net", "measured", report.net_j, None),
        ("process", "estimated", None if process is None else process.energy_j, None),
    )
    for name, provenance, energy_j, coverage in totals:
        yield {
            "id": f"total:{name}", "kind": "total", "provenance": provenance, "duration_s": report.duration_s,
            "energy_j": energy_j, "coverage": coverage, "flags": " ".join(report.flags) if name == "measured" else "",
        }  # fmt: skip


def to_prometheus(report: Report) -> str:
    """Return the report in Prometheus' text exposition format 0.0.4: gauges in J and s, ratios from 0 to 1.

    Sums over channels are right only where `counted="true"`.  A report without any value gives its duration alone.
    """
    there = [(n, r) for n, r in report.channels.items() if r.provenance != "absent" and r.energy_j is not None]
    labels = {
        n: {"channel": n, "kind": r.kind, "provenance": r.provenance, "counted": str(r.counted).lower()}
        for n, r in there
    }
    measured, estimated = {"provenance": "measured"}, {"provenance": "estimated"}
    process = report.process
    has_total = report.total_measured_j is not None
    metrics: tuple[tuple[str, str, list[tuple[dict[str, str], float | None]]], ...] = (
        ("joules", "Energy of one channel.", [(labels[n], r.energy_j) for n, r in there]),
        ("coverage_ratio", "Measured part of the time, by channel.", [(labels[n], r.coverage) for n, r in there]),
        (
            "total_joules",
            "Energy of all disjoint channels, what is measured apart from what is estimated.",
            [(measured, report.total_measured_j), (estimated, report.total_estimated_j)],
        ),
        (
            "total_coverage_ratio",
            "Lowest coverage of the channels in the measured total.",
            [({}, report.coverage if has_total else None)],
        ),
        ("net_joules", "Measured energy above idle.", [({}, report.net_j)]),
        (
            "process_joules",
            "Part of this process in the packages' energy, by CPU time.",
            [(estimated, None if process is None else process.energy_j)],
        ),
        ("duration_seconds", "Time that the report covers.", [({}, report.duration_s)]),
    )
    lines: list[str] = []
    for name, about, samples in metrics:
        known = [(labels_of, value) for labels_of, value in samples if value is not None]
        if known:
            metric = f"mcmcopt_energy_{name}"
            lines += [f"# HELP {metric} {about}", f"# TYPE {metric} gauge"]
            lines += [f"{metric}{_labels(labels_of)} {float(value)!r}" for labels_of, value in known]
    return "\n".join(lines) + "\n"


def _labels(labels: dict[str, str]) -> str:
    escaped = (f'{name}="{_escape(value)}"' for name, value in labels.items())
    return f"{{{','.join(escaped)}}}" if labels else ""


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def figure_class() -> Callable[..., Figure]:
    """Return matplotlib's `Figure`, which needs no screen and no global state.

    Raises:
        ImportError: naming the command that installs matplotlib, if it is missing.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("a figure needs matplotlib: pip install matplotlib") from error
    return Figure


def plot(report: Report, ax: Axes | None = None) -> Axes:
    """Draw a bar of joules (J) per channel that has any: hatched where estimated, pale where no total contains it.

    Args:
        report: to be drawn.
        ax: to draw on; None: that of a new figure (`ax.figure`), which belongs to no window.

    Raises:
        ImportError: if matplotlib is missing.
    """
    if ax is None:
        ax = figure_class()(figsize=(7, 3), layout="constrained").add_subplot()
    there = [(name, r, r.energy_j) for name, r in report.channels.items() if r.energy_j is not None]
    for place, (_, r, energy_j) in enumerate(there):
        ax.barh(
            place,
            energy_j,
            xerr=r.uncertainty_j,
            color=COLOURS.get(r.kind, "tab:gray"),
            alpha=1.0 if r.counted else PALE,
            hatch="//" if r.provenance == "estimated" else None,
            edgecolor="black",
        )
    ax.set_yticks(range(len(there)), [name for name, _, _ in there])
    ax.invert_yaxis()
    ax.set_xlabel("energy (J)")
    ax.set_title(f"{report.name}, {report.duration_s:.3g} s")
    return ax
