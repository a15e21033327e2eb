"""What scripts/benchmark.py restore measures, on a network whose answers are known."""
import cv2
import numpy as np
import pytest
import torch
from basicsr.archs import build_network
from images import write_images

from noiseda_data.photo import Photo
from noiseda_model import restore_benchmark
from noiseda_model.restorer import Restorer

UNET = {'type': 'RestorationUNet', 'width': 4, 'depth': 2}


@pytest.fixture
def photo(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)
    write_images(tmp_path, {'photo.png': image})
    return str(tmp_path / 'photo.png')


@pytest.fixture
def weights(tmp_path):
    torch.manual_seed(0)
    net = build_network(UNET)
    for parameter in net.parameters():
        parameter.data.normal_(std=0.2)
    torch.save({'params': net.state_dict(), 'network_g': UNET}, tmp_path / 'net_g.pth')
    return str(tmp_path / 'net_g.pth')


def test_make_photo_mirrors_to_any_size(photo, tmp_path):
    restore_benchmark.make_photo(photo, 0.012, str(tmp_path / 'larger.png'))
    small, large = (Photo(path).read() for path in (photo, str(tmp_path / 'larger.png')))
    assert large.shape == (94, 126, 3)  # 4:3, 0.012 megapixels
    rows, columns = (np.pad(np.arange(side), (0, size - side), 'symmetric')
                     for side, size in zip(small.shape[:2], large.shape[:2], strict=True))
    np.testing.assert_array_equal(large, small[rows][:, columns])


def test_seam_errors_are_those_of_tiled_results(photo, weights):
    (tile, overlap, largest, mean), = restore_benchmark.seam_errors(weights, photo, 16, [4])
    assert (tile, overlap) == (16, 4)
    restorer = Restorer(weights)
    image = cv2.imread(photo)[..., ::-1].astype(np.uint16) * 257
    whole, tiled = restorer(image), Restorer(weights, tile=16, tile_overlap=4)(image)
    difference = np.abs(whole.astype(float) - tiled) / 257
    assert 0 < difference.max() <= largest + 0.01  # this one is clipped
    assert 0 < mean < largest
    assert restore_benchmark.seam_errors(weights, photo, 64, [16])[0][2] == 0  # one tile holds it


def test_throughput_counts_files_and_the_tiles_of_the_network(photo, weights, tmp_path):
    files, bare, share = restore_benchmark.throughput(weights, [photo], str(tmp_path / 'out'), {'tile': 16}, rounds=1)
    assert (tmp_path / 'out/0.jpg').is_file()
    assert 0 < files < bare and share == pytest.approx(files / bare)


def test_peak_memory_is_at_least_what_this_process_holds(photo, weights, tmp_path):
    peak = restore_benchmark.peak_memory(weights, photo, str(tmp_path / 'out.png'), {'tile': 16})
    with open('/proc/self/status') as status:
        resident = next(int(line.split()[1]) for line in status if line.startswith('VmRSS'))
    assert peak >= 1024 * resident * 0.9 and (tmp_path / 'out.png').is_file()
