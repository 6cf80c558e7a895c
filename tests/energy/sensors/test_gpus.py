import sys
from types import SimpleNamespace

import pytest

from mcmcopt.energy.sensors.gpus import Board, Choice, choose, list_boards
from tests.energy.fakes.clock import FakeClock
from tests.energy.fakes.nvml import CONSTANTS, FakeBoard, FakeNvml

UUIDS = ["GPU-a1000000-0000", "GPU-a2000000-0000", "GPU-b3000000-0000"]
MIGS = ("MIG-c1000000-0000", "MIG-c2000000-0000")
THREE = tuple(Board(i, object(), uuid, "NVIDIA H100") for i, uuid in enumerate(UUIDS))
DIVIDED = (*THREE[:2], Board(2, object(), UUIDS[2], "NVIDIA H100", MIGS, True))


def indices(choice: Choice) -> list[int]:
    return [board.index for board in choice.boards]


def visible(text: str, boards: tuple[Board, ...] = THREE, **environ: str) -> Choice:
    return choose(boards, None, {"CUDA_VISIBLE_DEVICES": text, **environ})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", [0]),
        ("2,1", [2, 1]),
        (" 1 , 0 ", [1, 0]),
        ("0,2,-1,1", [0, 2]),  # the CUDA Programming Guide's own example
        ("0,9,1", [0]),
        ("9,0", []),
        ("", []),
        ("   ", []),
        ("-1", []),
        ("NoDevFiles", []),  # Slurm's
        ("0,,1", [0]),
        (",0", []),
        ("1gpu2,2ampere", [1, 2]),  # as strtol reads it
        ("+1", [1]),
        ("0,1,0", []),
        ("1,GPU-a1", [1]),
        (UUIDS[1], [1]),
        ("GPU-b3,GPU-a1", [2, 0]),
        ("GPU-a", []),  # two begin so
        ("GPU-a1,GPU-a,GPU-b", [0]),
        ("GPU-a1,GPU-a10", []),  # the same twice
        ("GPU-dead,GPU-a1", []),
        ("GPU-a1,0", [0]),
        ("a1000000", []),
        ("MIG-c1000000-0000", []),  # no such instance on these boards
    ],
)
def test_what_cuda_sees(text: str, expected: list[int]) -> None:
    choice = visible(text)
    assert indices(choice) == expected
    assert choice.boards or choice.reason


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (MIGS[0], [2]),
        ("MIG-c2", [2]),
        ("MIG-c1,MIG-c2", [2]),  # its board once
        ("MIG-c1,MIG-c1", []),
        ("MIG-c", []),
        ("MIG-c1,MIG-dead,MIG-c2", [2]),
        ("MIG-c1,GPU-a1", [2]),
        (f"MIG-{UUIDS[2]}/1/0", [2]),
        ("MIG-GPU-b3/1/0,MIG-GPU-b3/2/0", [2]),
        ("MIG-GPU-a1/1/0", []),  # that one is not divided
        ("MIG-GPU-b3/1", []),
    ],
)
def test_a_mig_instance_stands_for_its_board(text: str, expected: list[int]) -> None:
    choice = visible(text, DIVIDED)
    assert indices(choice) == expected
    assert not choice.assumed_order


def test_an_instance_of_one_of_several_boards_is_nobodys() -> None:
    boards = tuple(Board(i, object(), uuid, "NVIDIA H100", divided=True) for i, uuid in enumerate(UUIDS))
    assert indices(visible("MIG-GPU-b/1/0", boards)) == [2]
    assert indices(visible("MIG-GPU-a/1/0", boards)) == []


@pytest.mark.parametrize(
    ("text", "environ", "boards", "assumed"),
    [
        ("0", {}, THREE, True),  # boards of one kind too: which of them it is, nobody said
        ("0", {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}, THREE, False),
        ("0", {"CUDA_DEVICE_ORDER": "FASTEST_FIRST"}, THREE, True),
        ("2,0,1", {}, THREE, False),  # all of them, in whatever order
        ("0", {}, THREE[:1], False),
        ("GPU-a1", {}, THREE, False),
        ("", {}, THREE, False),
        ("0", {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}, DIVIDED, True),  # a number may be an instance's
    ],
)
def test_a_number_alone_is_an_assumption(
    text: str, environ: dict[str, str], boards: tuple[Board, ...], assumed: bool
) -> None:
    assert visible(text, boards, **environ).assumed_order is assumed


def test_nothing_said_means_all() -> None:
    assert choose(THREE, None, {}) == Choice(THREE)
    assert choose((), None, {}).reason


def test_cuda_numbers_only_boards_that_it_can_open() -> None:
    boards = (Board(0, None, "index-0", "unknown", error="no permission"), *THREE[1:])
    assert indices(visible("0", boards)) == [1]
    assert indices(choose(boards, None, {})) == [0, 1, 2]


# Explicit


@pytest.mark.parametrize(
    ("gpus", "expected"),
    [
        ((2, 0), [2, 0]),
        ((1, 1), [1]),
        (("GPU-b3", "GPU-a1000000-0000"), [2, 0]),
        ((0, "GPU-a1"), [0]),
        (("MIG-c1", "MIG-c2"), [2]),
        (("MIG-GPU-b3000000-0000/3/0",), [2]),
        ((), []),
    ],
)
def test_what_is_asked_for_goes_before_the_environment(gpus: tuple[int | str, ...], expected: list[int]) -> None:
    choice = choose(DIVIDED, gpus, {"CUDA_VISIBLE_DEVICES": "1"})
    assert indices(choice) == expected
    assert not choice.assumed_order
    assert choice.boards or choice.reason


@pytest.mark.parametrize("gpu", [7, -1, "GPU-dead", "GPU-a", "", "0", "a1000000-0000", True, 1.0, None])
def test_a_gpu_that_is_not_there_is_refused_by_name_beside_what_is(gpu: object) -> None:
    with pytest.raises(ValueError, match="gpus") as error:
        choose(THREE, (0, gpu), {})  # type: ignore[arg-type]
    assert repr(gpu) in str(error.value)
    if type(gpu) is int or (isinstance(gpu, str) and gpu):
        assert all(uuid in str(error.value) for uuid in UUIDS)


# Torch


def torch_with(uuids: list[str], initialized: bool = True) -> SimpleNamespace:
    def properties(i: int) -> SimpleNamespace:
        assert initialized, "CUDA was initialised by asking"
        return SimpleNamespace(uuid=uuids[i])

    def count() -> int:
        assert initialized, "torch was asked too early"
        return len(uuids)

    cuda = SimpleNamespace(is_initialized=lambda: initialized, device_count=count, get_device_properties=properties)
    return SimpleNamespace(cuda=cuda)


@pytest.mark.parametrize("prefix", ["", "GPU-"])
def test_devices_that_torch_has_opened_go_before_the_environment(monkeypatch: pytest.MonkeyPatch, prefix: str) -> None:
    monkeypatch.setitem(sys.modules, "torch", torch_with([prefix + "b3000000-0000", prefix + "a1000000-0000"]))
    choice = visible("1")
    assert indices(choice) == [2, 0]
    assert not choice.assumed_order
    assert indices(choose(THREE, (1,), {})) == [1]


def test_an_instance_that_torch_has_opened_stands_for_its_board(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", torch_with(["c2000000-0000"]))
    assert indices(choose(DIVIDED, None, {})) == [2]


@pytest.mark.parametrize(
    "torch",
    [
        torch_with(["b3000000-0000"], initialized=False),
        torch_with(["0badcafe-0000"]),  # torch for another maker's boards
        SimpleNamespace(),  # half imported
        SimpleNamespace(cuda=SimpleNamespace(is_initialized=lambda: True, device_count=lambda: 1)),  # no UUIDs
        None,
    ],
)
def test_a_torch_that_says_nothing_leaves_it_to_the_environment(monkeypatch: pytest.MonkeyPatch, torch: object) -> None:
    monkeypatch.setitem(sys.modules, "torch", torch)
    assert indices(visible("1")) == [1]


def test_torch_is_not_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    choose(THREE, None, {})
    assert "torch" not in sys.modules


# NVML


def test_boards_are_listed_with_their_instances_and_their_faults() -> None:
    fakes = [FakeBoard(UUIDS[0]), FakeBoard(UUIDS[1], mig=()), FakeBoard(UUIDS[2], name="NVIDIA A100", mig=MIGS)]
    nvml = FakeNvml(FakeClock(), fakes)
    nvml.nvmlInit()
    nvml.fail_next(UUIDS[1], "nvmlDeviceGetUUID", CONSTANTS["NVML_ERROR_NO_PERMISSION"])
    first, second, third = list_boards(nvml)
    assert (first.uuid, first.migs, first.divided, first.error) == (UUIDS[0], (), False, "")
    assert (second.index, second.handle, bool(second.error)) == (1, None, True)
    assert (third.name, third.migs, third.divided) == ("NVIDIA A100", MIGS, True)
    assert list_boards(nvml)[1].divided is False


@pytest.mark.parametrize("rank", [0, 1, 2, 4])
def test_each_rank_measures_a_board_of_its_own(rank: int) -> None:
    environ = {"LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": "3"}
    choice = choose(THREE, None, environ)
    assert indices(choice) == [rank % 3]
    assert choice.assumed_order
    assert indices(choose(THREE, (0, 1, 2), environ)) == [0, 1, 2]  # asked for
    assert indices(choose(THREE, None, {"LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": "1"})) == [0, 1, 2]
    assert indices(choose(THREE, None, {**environ, "CUDA_VISIBLE_DEVICES": "2"})) == [2]


def test_the_board_that_torch_has_made_current_is_the_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = torch_with([uuid.removeprefix("GPU-") for uuid in UUIDS])
    torch.cuda.current_device = lambda: 2
    monkeypatch.setitem(sys.modules, "torch", torch)
    choice = choose(THREE, None, {"LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "3"})
    assert indices(choice) == [2]
    assert not choice.assumed_order


@pytest.mark.parametrize("rank", [0, 1, 2])
def test_a_current_board_that_nobody_has_chosen_is_no_ranks_but_the_first(
    monkeypatch: pytest.MonkeyPatch, rank: int
) -> None:
    """Torch's device 0 is current before `set_device`: without one every rank would measure the same board."""
    torch = torch_with([uuid.removeprefix("GPU-") for uuid in UUIDS])
    torch.cuda.current_device = lambda: 0
    monkeypatch.setitem(sys.modules, "torch", torch)
    choice = choose(THREE, None, {"LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": "3"})
    assert indices(choice) == [rank]
    assert choice.assumed_order is (rank > 0)
