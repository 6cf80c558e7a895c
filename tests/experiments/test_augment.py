"""Shifts and mirrorings: each image is a window of itself in a black frame, or of its mirror image; draws by number."""

import torch
from torch.nn.functional import pad

from experiments.augment import PADDING, shifted_and_mirrored
from experiments.batches import Draws
from experiments.data import Split


def windows(image):
    """Return all shifts of an image and of its mirror image, by loops."""
    framed = pad(image, (PADDING,) * 4)
    height, width = image.shape[-2:]
    cuts = [framed[:, i : i + height, j : j + width] for i in range(2 * PADDING + 1) for j in range(2 * PADDING + 1)]
    return [*cuts, *(cut.flip(-1) for cut in cuts)]


def test_every_image_is_a_shift_of_itself_or_of_its_mirror_image():
    x = torch.randint(1, 255, (40, 3, 6, 5), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    out = shifted_and_mirrored(x, 3, 7)
    assert (out.dtype, out.shape) == (x.dtype, x.shape)
    found = [[k for k, w in enumerate(windows(x[i])) if torch.equal(w, out[i])] for i in range(len(x))]
    assert all(found)
    mirrored = sum(own[0] >= (2 * PADDING + 1) ** 2 for own in found)
    assert 10 < mirrored < 30  # of 40 coins; outside with probability 0.0007
    assert len({own[0] for own in found}) > 20  # each image has a shift of its own


def test_draws_depend_on_seed_and_step_alone():
    x = torch.rand(8, 1, 6, 6)
    state = torch.get_rng_state()
    one = shifted_and_mirrored(x, 3, 7)
    assert torch.equal(one, shifted_and_mirrored(x, 3, 7))
    assert not torch.equal(one, shifted_and_mirrored(x, 3, 8))
    assert not torch.equal(one, shifted_and_mirrored(x, 4, 7))
    assert torch.equal(state, torch.get_rng_state())


def test_batches_of_one_pass_are_disjoint_and_named_by_their_number():
    split = Split(torch.arange(50.0).view(50, 1), torch.arange(50))
    draws = Draws(split, 5)
    first = [draws(number, 16) for number in range(3)]
    assert len(torch.cat([y for _, y in first]).unique()) == 48
    assert all(torch.equal(x.flatten().long(), y) for x, y in first)
    again = [Draws(split, 5)(number, 16) for number in range(6)]
    assert all(torch.equal(a[1], b[1]) for a, b in zip(first, again[:3], strict=True))
    assert not torch.equal(again[0][1], again[3][1])  # the next pass has another order
    assert not torch.equal(again[0][1], Draws(split, 6)(0, 16)[1])
    assert sorted(draws(2, 80)[1].tolist()) == list(range(50))  # no more than there are
