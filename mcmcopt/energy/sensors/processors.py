"""Watts per CPU second from the data sheet, for machines on which nothing measures.

    E ≈ CPU seconds · w,   w = TDP / hardware threads   (all of them busy),   or   TDP / cores   (one thread a core)

The kernel counts CPU seconds per hardware thread.  With SMT two busy threads of one core make two CPU seconds a second,
so TDP / cores would count that core twice: over all threads it gives up to twice the TDP.  TDP / threads is exact where
a fully loaded socket draws its TDP, and too low where a thread has its core to itself, or SMT is switched off: that is
TDP / cores.  Both are kept (`w_per_thread`, `w_per_core`) and both belong in the line that states the assumption.
Neither is a bound, and the number of sockets cancels.

It ignores the power of an idle machine, DRAM, disks, fans, power supply, the clock, the instruction mix and how loaded
the rest of the socket is; on hybrid parts a performance and an efficiency core count alike.  TDP is the maker's thermal
figure: the default TDP for AMD, the TDP or processor base power for Intel.  Desktop parts may draw much more for as
long as the board lets them (an i9-14900K: base 125 W, turbo 253 W).  An order of magnitude,
always labelled `estimated`.

Sources: the maker's product page, named per entry.  No live page was opened; the figures were read in copies of them.
- AMD: an export of AMD's own product specification table (2023): default TDP, cores and threads of every entry but EPYC
  9754, which is newer: its TDP is in two other hardware tables, its cores and threads in one of them.
- Intel Xeon and Core of generations 8 to 11: two tables taken from Intel ARK (2023, 2024): TDP, cores and threads.
- Intel Core of generations 12 to 14: cores and threads from the same tables, which lack the base power; that is from a
  second hardware database (12, 13) and from reviews (14).
Left out because their makers publish no data sheet: parts made for one cloud, such as EPYC 7B12, 7R13, 7R32, Xeon
Platinum 8171M, 8175M, 8259CL, 8275CL, 8375C, 8481C.  The figures in circulation for them are estimates.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

_MARKS = re.compile(r"\((?:R|TM)\)|[®™]", re.IGNORECASE)


@dataclass(frozen=True)
class Processor:
    """One socket's worth of a model, as its data sheet has it."""

    name: str
    pattern: str
    """Regular expression for the words that name the model, without trade marks; matched as whole words."""
    tdp_w: float
    """Default TDP or processor base power, watts."""
    cores: int
    threads: int
    source: str
    """Whose page states the figures."""

    @property
    def w_per_thread(self) -> float:
        """Watts per busy hardware thread when all are busy: TDP / threads."""
        return self.tdp_w / self.threads

    @property
    def w_per_core(self) -> float:
        """Watts per busy core when every core runs one thread: TDP / cores, the higher figure."""
        return self.tdp_w / self.cores

    def matches(self, model_name: str) -> bool:
        """Whether a model name of /proc/cpuinfo names this model and no longer one (7763 is not in 7763P or 17763)."""
        words = " ".join(_MARKS.sub(" ", model_name).split())
        return re.search(rf"(?<![\w-])(?:{self.pattern})(?![\w+-])", words, re.IGNORECASE) is not None


def _epyc(model: str, tdp_w: float, cores: int, single: bool = False) -> Processor:
    """`single`: the one-socket version with a P has the same figures."""
    return Processor(
        f"AMD EPYC {model}", f"EPYC {model}{'P?' if single else ''}", tdp_w, cores, 2 * cores,
        f"AMD product page, EPYC {model}",
    )  # fmt: skip


def _ryzen(model: str, tdp_w: float, cores: int) -> Processor:
    return Processor(
        f"AMD Ryzen {model}", f"Ryzen {model}", tdp_w, cores, 2 * cores, f"AMD product page, Ryzen {model}"
    )


def _xeon(model: str, tdp_w: float, cores: int) -> Processor:
    return Processor(
        f"Intel Xeon {model}", f"Xeon {re.escape(model)}", tdp_w, cores, 2 * cores, f"Intel ARK, Xeon {model}"
    )


def _core(model: str, tdp_w: float, cores: int, threads: int, no_graphics: bool = False) -> Processor:
    """`no_graphics`: the version with an F and no graphics has the same figures."""
    return Processor(
        f"Intel Core {model}", f"Core {model}{'F?' if no_graphics else ''}", tdp_w, cores, threads,
        f"Intel ARK, Core {model}",
    )  # fmt: skip


PROCESSORS: tuple[Processor, ...] = (
    _epyc("7302", 155, 16, single=True),
    _epyc("7402", 180, 24, single=True),
    _epyc("7452", 155, 32),
    _epyc("7502", 180, 32, single=True),
    _epyc("7642", 225, 48),
    _epyc("7702", 200, 64, single=True),
    _epyc("7742", 225, 64),
    _epyc("7543", 225, 32, single=True),
    _epyc("7713", 225, 64, single=True),
    _epyc("7763", 280, 64),
    _epyc("9354", 280, 32, single=True),
    _epyc("9454", 290, 48, single=True),
    _epyc("9554", 360, 64, single=True),
    _epyc("9654", 360, 96, single=True),
    _epyc("9754", 360, 128),
    _ryzen("5 3600", 65, 6),
    _ryzen("7 3700X", 65, 8),
    _ryzen("9 3900X", 105, 12),
    _ryzen("9 3950X", 105, 16),
    _ryzen("5 5600X", 65, 6),
    _ryzen("7 5800X", 105, 8),
    _ryzen("9 5900X", 105, 12),
    _ryzen("9 5950X", 105, 16),
    _ryzen("5 7600X", 105, 6),
    _ryzen("7 7700X", 105, 8),
    _ryzen("9 7900X", 170, 12),
    _ryzen("9 7950X", 170, 16),
    _ryzen("Threadripper 3960X", 280, 24),
    _ryzen("Threadripper 3970X", 280, 32),
    _ryzen("Threadripper 3990X", 280, 64),
    _ryzen("Threadripper PRO 3975WX", 280, 32),
    _ryzen("Threadripper PRO 3995WX", 280, 64),
    _ryzen("Threadripper PRO 5975WX", 280, 32),
    _ryzen("Threadripper PRO 5995WX", 280, 64),
    _xeon("Gold 6130", 125, 16),
    _xeon("Gold 6140", 140, 18),
    _xeon("Gold 6148", 150, 20),
    _xeon("Gold 6226R", 150, 16),
    _xeon("Gold 6230", 125, 20),
    _xeon("Gold 6248", 150, 20),
    _xeon("Gold 6330", 205, 28),
    _xeon("Gold 6338", 205, 32),
    _xeon("Gold 6348", 235, 28),
    _xeon("Platinum 8160", 150, 24),
    _xeon("Platinum 8168", 205, 24),
    _xeon("Platinum 8280", 205, 28),
    _xeon("Platinum 8358", 250, 32),
    _xeon("Platinum 8380", 270, 40),
    _xeon("Platinum 8480+", 350, 56),
    _core("i7-8700", 65, 6, 12),
    _core("i7-8700K", 95, 6, 12),
    _core("i7-9700K", 95, 8, 8, no_graphics=True),
    _core("i9-9900K", 95, 8, 16, no_graphics=True),
    _core("i5-10400", 65, 6, 12, no_graphics=True),
    _core("i7-10700K", 125, 8, 16, no_graphics=True),
    _core("i9-10900K", 125, 10, 20, no_graphics=True),
    _core("i7-11700K", 125, 8, 16, no_graphics=True),
    _core("i9-11900K", 125, 8, 16, no_graphics=True),
    _core("i5-12400", 65, 6, 12, no_graphics=True),
    _core("i5-12600K", 125, 10, 16, no_graphics=True),
    _core("i7-12700K", 125, 12, 20, no_graphics=True),
    _core("i9-12900K", 125, 16, 24, no_graphics=True),
    _core("i5-13600K", 125, 14, 20, no_graphics=True),
    _core("i7-13700K", 125, 16, 24, no_graphics=True),
    _core("i9-13900K", 125, 24, 32, no_graphics=True),
    _core("i5-14600K", 125, 14, 20),
    _core("i7-14700K", 125, 20, 28),
    _core("i9-14900K", 125, 24, 32),
)
"""What is known; anything else has no figure."""


def detect(model_name: str) -> Processor | None:
    """Return the processor that a model name of /proc/cpuinfo names, the most specific if several do.

    Case, spaces and trade marks do not matter.  None for a model that is not in the table and for a name that a
    hypervisor masks ("AMD EPYC", "Intel Xeon Processor (Skylake, IBRS)", "QEMU Virtual CPU"): no figure is guessed.
    """
    return max((p for p in PROCESSORS if p.matches(model_name)), key=lambda p: len(p.name), default=None)


def model_name(root: str | os.PathLike[str] = "/proc") -> str | None:
    """Return the first "model name" of `root`/cpuinfo, as the kernel writes it.

    None where the file cannot be read (no Linux, no right) or has no such line (most ARM machines).
    """
    try:
        text = (Path(root) / "cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    for line in text.splitlines():
        key, colon, value = line.partition(":")
        if colon and key.strip() == "model name" and value.strip():
            return value.strip()
    return None
