"""restore(): whatever the size, tile and overlap, every pixel comes from the network and no seam shows."""
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from noiseda_basicsr import InputError
from noiseda_model.inference import fitting_tile, restore, restore_strips, self_ensemble

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
    count = next(n for n in range(1, length + 1) if n * tile - (n - 1) * overlap >= length)
    tile = next(t for t in range(1, tile + 1) if count * t - (count - 1) * overlap >= length)
    starts, seams = [*range(0, length - tile, tile - overlap), length - tile], set()
    for start in starts:
        seams |= {start} if start > 0 else set()
        seams |= {start + tile - 1} if start + tile < length else set()
    return sorted(seams)


@torch.no_grad()
@pytest.mark.parametrize('height, width, tile, overlap', [
    (20, 20, 8, 3), (9, 31, 9, 3), (23, 17, 10, 2), (30, 12, 12, 3)])
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
@pytest.mark.parametrize('height, width, tile, overlap', [(20, 20, 8, 4), (9, 31, 9, 5), (30, 12, 12, 8)])
def test_no_seam_where_a_quarter_of_the_overlap_is_all_a_network_looks_beyond(height, width, tile, overlap):
    image, net = torch.rand(1, 3, height, width, dtype=torch.float64), convolution()
    tiled = restore(net, image, tile=tile, tile_overlap=overlap)
    torch.testing.assert_close(tiled, net(image), rtol=0, atol=1e-12)


@torch.no_grad()
@pytest.mark.parametrize('overlap', [3, 6, 9])
def test_blend_is_linear_between_the_outer_quarters(overlap):
    tile, height = 12, 5
    width = 2 * tile - overlap  # two tiles, side by side
    image = torch.rand(1, 3, height, width, dtype=torch.float64)
    net = Scaled(0.5, 2.0)
    quarter = overlap // 4
    steps = torch.arange(1, overlap + 1, dtype=torch.float64)
    share = ((steps - quarter) / (overlap + 1 - 2 * quarter)).clamp(0, 1)  # of the right tile
    factor = torch.cat([torch.full((tile - overlap,), 0.5), 0.5 * (1 - share) + 2.0 * share,
                        torch.full((tile - overlap,), 2.0)])
    torch.testing.assert_close(restore(net, image, tile=tile, tile_overlap=overlap), image * factor)
    assert torch.equal(share + share.flip(0), torch.ones(overlap, dtype=torch.float64)) or overlap % 4


class Scaled(nn.Module):
    """Multiplies each image it is given by the next factor, so one sees which tile a pixel came from."""

    def __init__(self, *factors):
        super().__init__()
        self.factors = iter(factors)

    def forward(self, image):
        return image * next(self.factors)


@pytest.mark.parametrize('length, tile, overlap, multiple, computed', [
    (4000, 1024, 64, 8, 4280),  # 5 tiles of 856 in place of 5 x 1024
    (3000, 1024, 64, 8, 3200),  # 4 of 800
    (1025, 1024, 64, 1, 1090),  # 2 of 545
    (1024, 1024, 64, 8, 1024)])
def test_tiles_are_as_short_as_their_number_allows(length, tile, overlap, multiple, computed):
    widths = []

    def net(tiles):
        widths.append(tiles.shape[-1])
        return tiles

    image = torch.rand(1, 3, multiple, length)
    torch.testing.assert_close(restore(net, image, multiple, tile, overlap), image)
    assert sum(widths) == computed and len(set(widths)) == 1


@torch.no_grad()
@pytest.mark.parametrize('batch', [1, 2, 3, 100])
def test_tiles_of_one_row_go_through_together(batch):
    image, net, sizes = torch.rand(2, 3, 20, 31, dtype=torch.float64), convolution(), []

    def counted(tiles):
        sizes.append(tuple(tiles.shape))
        return net(tiles)

    rule = {'multiple': 4, 'minimum': 0, 'square': False}
    strips = list(restore_strips(counted, lambda top, bottom: image[..., top:bottom, :], 20, 31, rule, 8, 4, batch))
    torch.testing.assert_close(torch.cat(strips, dim=-2), restore(net, image, 4), rtol=0, atol=1e-12)
    rows, columns = 4, 7  # 20 = 8 + 3 * 4; 31 is padded to 32 = 8 + 6 * 4
    assert len(strips) == rows and len(sizes) == rows * math.ceil(columns / batch)
    assert {size[2:] for size in sizes} == {(8, 8)}  # all of equal size
    assert sum(size[0] for size in sizes) == 2 * rows * columns


def test_rows_are_asked_for_downwards_and_a_tile_high_at_most():
    image, asked = torch.rand(1, 3, 37, 9), []

    def read(top, bottom):
        asked.append((top, bottom))
        return image[..., top:bottom, :]

    rule = {'multiple': 1, 'minimum': 0, 'square': False}
    torch.testing.assert_close(torch.cat(list(restore_strips(nn.Identity(), read, 37, 9, rule, 8, 2)), -2), image)
    assert asked == sorted(asked) and max(bottom - top for top, bottom in asked) == 8
    assert sum(bottom - top for top, bottom in asked) < 37 * 8 / 6 + 8


@torch.no_grad()
def test_self_ensemble_is_the_mean_over_the_group_of_the_square():
    """Hence it commutes with every flip and turn, leaves a symmetric network alone, and is exact where one can tell."""
    image, net = torch.rand(2, 3, 6, 9, dtype=torch.float64), convolution()

    def ensemble(image):
        return self_ensemble(net, image)

    for turn in (lambda x: x.flip(-1), lambda x: x.flip(-2), lambda x: x.transpose(-1, -2)):
        torch.testing.assert_close(ensemble(turn(image)), turn(ensemble(image)), rtol=0, atol=1e-12)
        assert not torch.allclose(net(turn(image)), turn(net(image)))
    mean_kernel = convolution()  # by hand: the network with the kernel averaged over the eight
    kernel = net.weight
    turned = [torch.rot90(k, n, (-2, -1)) for k in (kernel, kernel.flip(-1)) for n in range(4)]
    mean_kernel.weight.data = torch.stack(turned).mean(0)
    mean_kernel.bias.data = net.bias.data
    torch.testing.assert_close(ensemble(image), mean_kernel(image), rtol=0, atol=1e-12)


def test_fitting_tile_follows_the_memory_of_the_pass():
    """3 -> 16 -> 3 channels, fp32: the image, 16 planes and the output are alive at once, 22 planes of 4 bytes."""
    net = nn.Sequential(nn.Conv2d(3, 16, 1), nn.Conv2d(16, 3, 1))
    rule, like = {'multiple': 1, 'minimum': 0, 'square': False}, torch.empty(0)
    needs = 4 * (3 + 16 + 3) * 512**2
    for available, expected in ((2 * needs, 512), (2 * needs - 1, 384), (0, 64), (2**40, 2048)):
        assert fitting_tile(net, rule, like, available) == expected
    assert fitting_tile(net, rule, like, 2 * needs * 4, batch=4) == 512
    assert fitting_tile(net, {'multiple': 36, 'minimum': 100, 'square': False}, like, 0) == 108
    half = nn.Sequential(nn.Conv2d(3, 16, 1), nn.Conv2d(16, 3, 1)).to(torch.bfloat16)
    assert fitting_tile(half, rule, like.to(torch.bfloat16), needs) == 512


def test_samples_of_a_batch_and_channels_do_not_mix():
    image = torch.rand(3, 1, 9, 9)
    torch.testing.assert_close(restore(lambda x: 2 * x + 1, image, tile=4, tile_overlap=1), 2 * image + 1)


def test_output_is_not_clipped():
    image = torch.tensor([-0.5, 1.5]).view(1, 1, 1, 2)
    assert torch.equal(restore(nn.Identity(), image), image)


@pytest.mark.parametrize('tile', [None, 8])
@pytest.mark.parametrize('error, is_the_networks', [
    (torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 2 GiB'), False),
    (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), False),
    (RuntimeError('MPS backend out of memory'), False),
    (RuntimeError('CUDNN_STATUS_ALLOC_FAILED'), False),
    (RuntimeError('CUDA error: no kernel image is available'), False),
    (RuntimeError('cuDNN error: CUDNN_STATUS_NOT_SUPPORTED'), False),
    (RuntimeError('GET was unable to find an engine to execute this computation'), False),
    (InputError('x.pth: what it says'), False),
    (type('Stopped', (Exception,), {})(), False),  # from the demo, say
    (RuntimeError('Sizes of tensors must match'), True),
    (TypeError('unsupported'), True),
])
def test_what_is_the_fault_of_the_network_and_what_is_not(error, is_the_networks, tile):
    class Failing(nn.Module):
        def forward(self, image):
            raise error

    expected = (InputError, 'Failing does not take an RGB image of .*test_inference.py') if is_the_networks else (
        type(error), '')
    with pytest.raises(expected[0], match=expected[1]) as told:
        restore(Failing(), torch.zeros(1, 3, 16, 16), tile=tile, tile_overlap=0)
    assert (told.value is error) != is_the_networks
