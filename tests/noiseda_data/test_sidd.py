"""SIDD's .mat files: read as published, as submitted, as others save results; written as the benchmark's code does."""
import re

import numpy as np
import pytest
import scipy.io

from noiseda_basicsr import InputError
from noiseda_data.sidd import BlockStore, check_submission, save_submission


@pytest.fixture
def blocks():
    return np.random.default_rng(0).integers(0, 256, (2, 3, 8, 8, 3), np.uint8)


def saved(tmp_path, **variables):
    path = str(tmp_path / 'x.mat')
    scipy.io.savemat(path, variables)
    return path


def test_blocks_as_published(tmp_path, blocks):
    store = BlockStore(saved(tmp_path, ValidationNoisyBlocksSrgb=blocks))
    assert store.keys == ['0001_01', '0001_02', '0001_03', '0002_01', '0002_02', '0002_03']
    for number, key in enumerate(store.keys):
        np.testing.assert_array_equal(store.read(key), blocks.reshape(6, 8, 8, 3)[number])
    assert store.location('0002_01').endswith('x.mat block 0002_01')


@pytest.mark.parametrize('dtype', [np.float32, np.float64])
def test_floating_point_results_are_clipped_and_rounded(tmp_path, blocks, dtype):
    values = blocks.astype(dtype) / 255
    values[0, 0, 0, 0], values[0, 0, 0, 1] = (-0.2, 1.3, 100.4 / 255), (100.6 / 255, 0, 1)
    store = BlockStore(saved(tmp_path, Idenoised=values))
    first = store.read('0001_01')
    assert first.dtype == np.uint8
    np.testing.assert_array_equal(first[0, :2], [(0, 255, 100), (101, 0, 255)])
    np.testing.assert_array_equal(store.read('0002_03'), blocks[1, 2])


def test_submission_round_trip(tmp_path, blocks):
    path = str(tmp_path / 'SubmitSrgb.mat')
    images = {f'{photo + 1:04d}_{block + 1:02d}': blocks[photo, block] for photo in range(2) for block in range(3)}
    save_submission(path, images, 0.5, {'MethodName': 'noiseda', 'Authors': 'nobody'})
    variables = scipy.io.loadmat(path)
    # the benchmark's code: a cell array of photos x blocks, a number, a struct
    assert variables['DenoisedBlocksSrgb'].dtype == object and variables['DenoisedBlocksSrgb'].shape == (2, 3)
    assert variables['TimeMPSrgb'].item() == 0.5
    assert variables['OptionalData']['MethodName'][0, 0][0] == 'noiseda'
    np.testing.assert_array_equal(variables['DenoisedBlocksSrgb'][1, 2], blocks[1, 2])
    store = BlockStore(path)
    assert all(np.array_equal(store.read(key), image) for key, image in images.items())


def test_a_submission_that_cannot_be_written_leaves_the_earlier_one(tmp_path, blocks, monkeypatch):
    path, images = tmp_path / 'SubmitSrgb.mat', {'0001_01': blocks[0, 0]}
    save_submission(str(path), images)
    before = path.read_bytes()

    def full(file, *args, **options):
        file.write(b'begun')
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(scipy.io, 'savemat', full)
    with pytest.raises(InputError, match='SubmitSrgb.mat: could not be written .*No space.*Choose another place'):
        save_submission(str(path), images)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]
    with pytest.raises(InputError, match='is a folder; name a file'):
        check_submission(str(tmp_path), images)


@pytest.mark.parametrize('names', [[], ['a'], ['0001_01', '0001_03'], ['0001_02'], ['0001_01', 'x'], ['1_1'],
                                   ['0001_01', '0002_01', '0002_02'], ['0000_00']])
def test_a_submission_needs_every_block(names):
    with pytest.raises(InputError, match=r'out.mat: a submission needs every block, called 0001_01 to 0040_32'):
        check_submission('out.mat', names)


def test_full_submission():
    names = [f'{photo:04d}_{block:02d}' for photo in range(1, 41) for block in range(1, 33)]
    assert check_submission('out.mat', names[::-1]) == (40, 32)


HDF5 = b'MATLAB 7.3 MAT-file'.ljust(124) + b'\x00\x02IM' + bytes(400)


@pytest.mark.parametrize(('content', 'message'), [
    (None, 'x.mat: no such file'),
    (b'<html>404</html>', 'x.mat: cannot be read as a MATLAB file .* Download it again'),
    (HDF5, r'x.mat: saved with -v7.3 \(HDF5\).* save it anew without'),
    ({'other': np.zeros((3, 4))}, 'x.mat: holds no array of photos x blocks x height x width x 3'),
    ({'cells': np.array([['text', 'other']], object)}, 'x.mat: holds no array'),
    ({'blocks': np.zeros((1, 1, 4, 4, 3), np.int16)}, 'x.mat variable blocks: int16 values'),
    ({'blocks': np.full((1, 1, 4, 4, 3), 200.0)}, r'x.mat variable blocks: floating point beyond \[0, 1\] .*200'),
    ({'blocks': np.full((1, 1, 4, 4, 3), np.nan)}, r'x.mat variable blocks: floating point beyond'),
])
def test_unusable_files_are_named(content, message, tmp_path):
    path = tmp_path / 'x.mat'
    if isinstance(content, dict):
        scipy.io.savemat(path, content)
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        BlockStore(str(path))


def test_truncated_file(tmp_path, blocks):
    path = saved(tmp_path, blocks=blocks)
    with open(path, 'r+b') as file:
        file.truncate(300)
    with pytest.raises(InputError, match=re.escape(path)):
        BlockStore(path)
