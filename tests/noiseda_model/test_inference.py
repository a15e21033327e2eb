"""restore(): whatever the size, tile and overlap, every pixel comes from the network and no seam shows."""
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from noiseda_model.inference import restore

side = st.integers(1, 23)


@st.composite
def tilings(draw):
    multiple = draw(st.integers(1, 4))
    tile = multiple * draw(st.integers(1, 5))
    return {'size_multiple': multiple, 'tile': tile, 'tile_overlap': draw(st.integers(0, tile - 1))}


class Recording(nn.Module):
    """Lets through only what val:size_multiple and val:tile promise."""

    def __init__(self, size_multiple, tile):
        super().__init__()
        self.size_multiple, self.tile, self.calls = size_multiple, tile, 0

    def forward(self, image):
        self.calls += 1
        for length in image.shape[-2:]:
            assert length % self.size_multiple == 0 and (self.tile is None or length <= self.tile)
        return image


@given(height=side, width=side, tiling=tilings(), seed=st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_identity_network_returns_the_image(height, width, tiling, seed):
    image = torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(seed)) - 0.3
    net = Recording(tiling['size_multiple'], tiling['tile'])
    torch.testing.assert_close(restore(net, image, **tiling), image, rtol=0, atol=1e-6)

    multiple, tile, overlap = tiling.values()
    padded = [length + -length % multiple for length in (height, width)]
    tiles = [max(0, math.ceil((length - tile) / (tile - overlap))) + 1 for length in padded]
    assert net.calls == math.prod(tiles)  # as few as cover the image


@given(height=side, width=side, multiple=st.integers(1, 8))
@settings(max_examples=30, deadline=None)
def test_untiled_image_is_padded_to_the_multiple_in_one_call(height, width, multiple):
    image = torch.rand(1, 3, height, width)
    net = Recording(multiple, None)
    assert torch.equal(restore(net, image, multiple), image)
    assert net.calls == 1


@pytest.mark.parametrize('height, width', [(12, 12), (7, 12), (12, 3)])
def test_an_image_no_larger_than_a_tile_is_not_tiled(height, width):
    image = torch.rand(1, 3, height, width)
    net = Recording(1, 12)
    assert torch.equal(restore(net, image, tile=12, tile_overlap=4), image)
    assert net.calls == 1


def convolution(seed=0):
    torch.manual_seed(seed)
    return nn.Conv2d(3, 3, 3, padding=1).double()


def borders(length, tile, overlap):
    """Pixels beside an end of a tile inside the image: where a 3x3 convolution sees padding in place of the image."""
    starts, seams = [*range(0, length - tile, tile - overlap), length - tile], set()
    for start in starts:
        seams |= {start} if start > 0 else set()
        seams |= {start + tile - 1} if start + tile < length else set()
    return sorted(seams)


@torch.no_grad()
@pytest.mark.parametrize('height, width, tile, overlap', [
    (20, 20, 8, 3), (9, 31, 9, 4), (23, 17, 10, 2), (30, 12, 12, 7)])
def test_tiled_equals_untiled_but_for_the_seams(height, width, tile, overlap):
    image, net = torch.rand(1, 3, height, width, dtype=torch.float64), convolution()
    tiled, whole = restore(net, image, tile=tile, tile_overlap=overlap), net(image)
    seen = torch.ones(height, width, dtype=torch.bool)
    seen[borders(height, tile, overlap)] = False
    seen[:, borders(width, tile, overlap)] = False
    assert 0 < seen.sum() < height * width
    torch.testing.assert_close(tiled[..., seen], whole[..., seen], rtol=0, atol=1e-12)
    assert (tiled - whole)[..., ~seen].abs().max() > 1e-6


@torch.no_grad()
@pytest.mark.parametrize('overlap', [3, 6])
def test_blend_is_linear_so_a_seam_keeps_one_share_in_overlap_plus_one(overlap):
    tile, height = 12, 5
    width = 2 * tile - overlap  # two tiles, side by side
    image, net = torch.rand(1, 3, height, width, dtype=torch.float64), convolution()
    left, right = net(image[..., :tile]), net(image[..., -tile:])
    share = torch.arange(1, overlap + 1, dtype=torch.float64) / (overlap + 1)
    blend = left[..., -overlap:] * (1 - share) + right[..., :overlap] * share
    expected = torch.cat([left[..., :-overlap], blend, right[..., overlap:]], dim=-1)
    tiled = restore(net, image, tile=tile, tile_overlap=overlap)
    torch.testing.assert_close(tiled, expected)
    step = (left[..., -1] - net(image)[..., tile - 1]).abs()
    torch.testing.assert_close((tiled - net(image))[..., tile - 1].abs(), step / (overlap + 1))


def test_samples_of_a_batch_and_channels_do_not_mix():
    image = torch.rand(3, 1, 9, 9)
    torch.testing.assert_close(restore(lambda x: 2 * x + 1, image, tile=4, tile_overlap=1), 2 * image + 1)


def test_output_is_not_clipped():
    image = torch.tensor([-0.5, 1.5]).view(1, 1, 1, 2)
    assert torch.equal(restore(nn.Identity(), image), image)
