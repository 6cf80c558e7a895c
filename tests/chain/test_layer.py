"""A layer: its counts, its mask, exact reading, and the discovery of writes that are not the chain's."""

import pytest
import torch
from hypothesis import given

from mcmcopt.chain.layer import Edit, Kind
from tests.chain.states import TILINGS, layers, make_layer


@given(layer=layers(tilings=(*TILINGS, ((4, 6), (2, 3)))))
def test_counts_agree_with_the_mask(layer):
    mask = layer.mask()
    assert mask.shape == layer.param.shape
    assert (
        layer.active_entries
        == int(mask.sum())
        == sum(layer.tiling.size(b) for b in layer.support.order[: layer.active])
    )
    assert bool((layer.param[~mask] == 0).all())


@pytest.mark.parametrize("shape", [(), (4,), (2, 3), (0, 3)])
def test_a_dense_layer_is_active_everywhere(shape):
    layer = make_layer(shape, dense=True)
    assert bool(layer.mask().all())
    assert layer.mask().shape == shape
    assert layer.active == layer.active_entries == layer.param.numel()


def test_read_follows_logical_order_and_is_exact():
    layer = make_layer((3, 4), dtype=torch.bfloat16)
    layer.param = layer.param.t().contiguous().t()  # a transposed storage
    layer.refresh()
    indices = torch.tensor([7, 0, 11])
    assert torch.equal(layer.read(indices), layer.param.reshape(-1)[indices].double())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_representable_rounds_to_what_the_parameter_stores(dtype):
    values = torch.tensor([1 / 3, -1e-3, 0.0, 7.0], dtype=torch.float64)
    stored = make_layer(dtype=dtype).representable(values)
    assert stored.dtype == torch.float64
    assert torch.equal(stored, values.to(dtype).double())


def test_a_foreign_write_is_found_until_it_is_masked():
    layer = make_layer((3, 4), "row", active=[0, 2], name="encoder.weight")
    layer.refresh()
    layer.mark_written()
    layer.refresh()
    layer.param[1, 2] = 0.5
    with pytest.raises(ValueError, match=r"'encoder\.weight' has non-zero weights where mask"):
        layer.refresh()
    layer.param.mul_(layer.mask())
    layer.refresh()
    layer.param[0, 2] = 0.5  # active: anybody may write there
    layer.refresh()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e-45, -1e-300])
def test_any_value_but_zero_is_found(value):
    layer = make_layer((3, 4), "row", active=[0, 2])
    layer.param[1, 2] = value
    with pytest.raises(ValueError, match="non-zero"):
        layer.refresh()


def test_a_moved_storage_is_followed():
    layer = make_layer((3, 4), "row", active=[0, 2])
    layer.mark_written()
    layer.param = layer.param.clone()
    layer.refresh()
    assert layer.values.data_ptr() == layer.param.data_ptr()
    layer.param = torch.ones_like(layer.param)
    with pytest.raises(ValueError, match="non-zero"):
        layer.refresh()


@pytest.mark.parametrize(("kind", "back"), [(Kind.WALK, Kind.WALK), (Kind.BIRTH, Kind.DEATH), (Kind.DEATH, Kind.BIRTH)])
def test_reversing_an_edit_twice_gives_it_back(kind, back):
    edit = Edit(make_layer(), kind, 3, torch.tensor([3]), torch.tensor([1.0]), torch.tensor([2.0]))
    assert edit.reversed()[1:] == (back, 3, edit.indices, edit.new, edit.old)
    assert edit.reversed().reversed() == edit
