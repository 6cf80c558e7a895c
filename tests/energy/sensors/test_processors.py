import re
from pathlib import Path

import pytest

from mcmcopt.energy.sensors.processors import PROCESSORS, Processor, detect, model_name

GHZ = {
    "Gold 6130": 2.1, "Gold 6140": 2.3, "Gold 6148": 2.4, "Gold 6226R": 2.9, "Gold 6230": 2.1, "Gold 6248": 2.5,
    "Gold 6330": 2.0, "Gold 6338": 2.0, "Gold 6348": 2.6, "Platinum 8160": 2.1, "Platinum 8168": 2.7,
    "Platinum 8280": 2.7, "Platinum 8358": 2.6, "Platinum 8380": 2.3,
    "i7-8700": 3.2, "i7-8700K": 3.7, "i7-9700K": 3.6, "i9-9900K": 3.6, "i5-10400": 2.9, "i7-10700K": 3.8,
    "i9-10900K": 3.7, "i7-11700K": 3.6, "i9-11900K": 3.5,
}  # fmt: skip
HYBRID = re.compile(r"i\d-1[234]\d00K")


def cpuinfo_name(p: Processor) -> str:
    """What the kernel prints: the makers' schemes, by family and generation."""
    vendor, family, model = p.name.split(" ", 2)
    if family == "EPYC" or (family == "Ryzen" and "PRO" not in model):
        return f"{p.name} {p.cores}-Core Processor"
    if vendor == "AMD":
        return f"{p.name} {p.cores}-Cores"
    if family == "Xeon":
        return f"Intel(R) Xeon(R) {model}" + (f" CPU @ {GHZ[model]:.2f}GHz" if model in GHZ else "")
    generation = int(re.sub(r"i\d-(\d+)\d{3}.*", r"\1", model))
    clock = f" @ {GHZ[model]:.2f}GHz" if model in GHZ else ""
    if generation <= 10:
        return f"Intel(R) Core(TM) {model} CPU{clock}"
    return ("" if generation == 14 else f"{generation}th Gen ") + f"Intel(R) Core(TM) {model}{clock}"


@pytest.mark.parametrize("p", PROCESSORS, ids=lambda p: p.name)
def test_every_entry_is_found_by_its_own_name_and_by_no_other(p: Processor) -> None:
    name = cpuinfo_name(p)
    assert [q.name for q in PROCESSORS if q.matches(name)] == [p.name]
    assert detect(name) is p
    assert detect(name.upper().replace(" ", "  ")) is p


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("Intel(R) Xeon(R) Gold 6130 CPU @ 2.10GHz", "Intel Xeon Gold 6130"),
        ("Intel(R) Xeon(R) Platinum 8480+", "Intel Xeon Platinum 8480+"),
        ("Intel(R) Core(TM) i7-8700K CPU @ 3.70GHz", "Intel Core i7-8700K"),
        ("Intel(R) Core(TM) i7-8700 CPU @ 3.20GHz", "Intel Core i7-8700"),
        ("11th Gen Intel(R) Core(TM) i9-11900KF @ 3.50GHz", "Intel Core i9-11900K"),
        ("13th Gen Intel(R) Core(TM) i7-13700K", "Intel Core i7-13700K"),
        ("Intel(R) Core(TM) i9-14900K", "Intel Core i9-14900K"),
        ("AMD EPYC 7763 64-Core Processor", "AMD EPYC 7763"),
        ("AMD EPYC 7702P 64-Core Processor", "AMD EPYC 7702"),
        ("AMD Ryzen 9 5950X 16-Core Processor", "AMD Ryzen 9 5950X"),
        ("AMD Ryzen Threadripper 3970X 32-Core Processor", "AMD Ryzen Threadripper 3970X"),
        ("AMD Ryzen Threadripper PRO 3995WX 64-Cores", "AMD Ryzen Threadripper PRO 3995WX"),
    ],
)
def test_real_names(name: str, found: str) -> None:
    p = detect(name)
    assert p is not None
    assert p.name == found


@pytest.mark.parametrize(
    "name",
    [
        "", "unknown", "AMD EPYC", "AMD EPYC Processor", "AMD EPYC-Rome Processor", "AMD EPYC-Milan Processor",
        "Intel Xeon Processor (Skylake, IBRS)", "Intel Xeon Processor (Cascadelake)", "QEMU Virtual CPU version 2.5+",
        "Common KVM processor", "Intel(R) Xeon(R) CPU @ 2.20GHz", "Intel(R) Xeon(R) Processor @ 2.90GHz",
    ],
)  # fmt: skip
def test_masked_names_give_nothing(name: str) -> None:
    assert detect(name) is None


@pytest.mark.parametrize(
    "name",
    [
        "AMD EPYC 776", "Half-EPYC 7763", "AMD EPYC 77631 64-Core Processor", "AMD EPYC 7773X 64-Core Processor",
        "AMD EPYC 9754S 128-Core Processor", "AMD EPYC Embedded 9354", "AMD EPYC 7B12", "AMD EPYC 7R32",
        "AMD Ryzen 5 3600X 6-Core Processor", "AMD Ryzen 7 5800X3D 8-Core Processor", "AMD Ryzen 9 5900HX",
        "Intel(R) Xeon(R) Gold 6130F CPU @ 2.10GHz", "Intel(R) Xeon(R) Gold 6248R CPU @ 3.00GHz",
        "Intel(R) Xeon(R) Platinum 8280L CPU @ 2.70GHz", "Intel(R) Xeon(R) Platinum 8480CL",
        "Intel(R) Xeon(R) Platinum 8380HL CPU @ 2.90GHz", "Intel(R) Xeon(R) Platinum 8259CL CPU @ 2.50GHz",
        "Intel(R) Core(TM) i7-8700T CPU @ 2.40GHz", "Intel(R) Core(TM) i9-9900KS CPU @ 4.00GHz",
        "13th Gen Intel(R) Core(TM) i9-13900KS", "13th Gen Intel(R) Core(TM) i9-13900", "Intel(R) Core(TM) i9-14900HX",
    ],
)  # fmt: skip
def test_a_sibling_with_other_figures_is_not_taken_for_it(name: str) -> None:
    assert detect(name) is None


@pytest.mark.parametrize("p", PROCESSORS, ids=lambda p: p.name)
def test_figures_are_of_a_processor(p: Processor) -> None:
    if HYBRID.search(p.name):
        assert p.cores < p.threads < 2 * p.cores
    else:
        assert p.threads in (p.cores, 2 * p.cores)
    assert 0.5 <= p.w_per_thread <= 20
    assert p.w_per_thread * p.threads == pytest.approx(p.tdp_w)
    assert p.w_per_core * p.cores == pytest.approx(p.tdp_w)
    assert p.w_per_thread <= p.w_per_core
    assert p.source.startswith(("Intel ARK, ", "AMD product page, "))
    assert p.source.split(", ")[1] in p.name


def test_names_are_unique() -> None:
    assert len({p.name for p in PROCESSORS}) == len(PROCESSORS)


def test_model_name_is_the_first_of_cpuinfo(tmp_path: Path) -> None:
    assert model_name(tmp_path) is None
    cpuinfo = tmp_path / "cpuinfo"
    first = "processor\t: 0\nmodel\t\t: 1\nmodel name\t: AMD EPYC 7763 64-Core Processor \nstepping\t: 1\n\n"
    cpuinfo.write_text(first + "processor\t: 1\nmodel name\t: other\n")
    assert model_name(tmp_path) == model_name(str(tmp_path)) == "AMD EPYC 7763 64-Core Processor"
    cpuinfo.write_text("processor\t: 0\nBogoMIPS\t: 243.75\nCPU implementer\t: 0x41\n")
    assert model_name(tmp_path) is None
    cpuinfo.write_text("model name\t:\n")
    assert model_name(tmp_path) is None
