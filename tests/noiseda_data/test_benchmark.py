"""The data benchmark: its readers read what they say, its table is printed, and the raw store is fast."""
import runpy
import sys

import cli
import numpy as np
import pytest
import torch

from noiseda_basicsr.fixes import apply_fixes
from noiseda_data import benchmark

apply_fixes()


@pytest.fixture
def folder(tmp_path):
    benchmark.make_images(str(tmp_path), count=6, size=96)
    return str(tmp_path)


def test_arrays_in_memory_give_what_the_data_set_gives(folder):
    """The limit does the data set's work: same crops, views and types. The pair is of one place, real of another."""
    places, arrays = benchmark._places(folder, 32), benchmark._arrays(folder)
    sample, ours = benchmark._sliced(arrays, places, 32), benchmark._ours(folder, '_raw.lmdb', 32)
    for place in places[:20]:
        item, other = sample(), ours()
        assert item.keys() == other.keys() == set(benchmark.STREAMS)
        assert place[0] == place[1] != place[2]
        for stream, (number, top, left, flip_x, flip_y, transpose) in zip(benchmark.STREAMS, place, strict=True):
            crop = arrays[stream][number][top:top + 32, left:left + 32]
            crop = crop[::-1 if flip_y else 1, ::-1 if flip_x else 1].transpose(2, *((1, 0) if transpose else (0, 1)))
            np.testing.assert_allclose(item[stream], crop / 255, rtol=1e-6)
            assert item[stream].dtype == other[stream].dtype == torch.float32
            assert item[stream].shape == other[stream].shape and item[stream].is_contiguous()


def test_made_up_images_have_the_spectrum_of_photos():
    """Amplitude falls as 1/f: a log-log slope near -1."""
    image = benchmark._made_up(np.random.default_rng(0), 256)[..., 1]
    amplitude = np.abs(np.fft.rfft2(image))
    frequency = np.hypot(np.fft.fftfreq(256)[:, None], np.fft.rfftfreq(256))
    band = (frequency > 0.01) & (frequency < 0.3)
    slope = np.polyfit(np.log(frequency[band]), np.log(amplitude[band]), 1)[0]
    assert slope == pytest.approx(-1, abs=0.1)


def test_raw_store_keeps_pace_with_memory(folder):
    """Far below what docs/data.md reports, so that no busy machine fails it."""
    speeds = benchmark.compare_readers(folder, patch=64, rounds=3, seconds=0.05)
    assert [benchmark.ratio(speeds[one], speeds[other]) > 0.2 for one, other in benchmark.RATIOS] == [True, True]


def test_ratio_counts_images():
    assert benchmark.ratio(benchmark.Speed(3, [2, 4, 9]), benchmark.Speed(2, [1, 1, 1])) == 4 * 3 / 2


def command_line(monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, 'argv', ['benchmark.py', *arguments])
    runpy.run_path(str(cli.ROOT / 'scripts' / 'benchmark.py'), run_name='__main__')
    return capsys.readouterr().out


def test_command_line(image_folder, monkeypatch, capsys):
    photos = image_folder('photos', {'a.png': np.random.default_rng(0).integers(0, 256, (70, 140, 3), np.uint8)})
    small = ['--images', '3', '--size', '64', '--patch', '16', '--rounds', '1', '--seconds', '0']
    out = command_line(monkeypatch, capsys, 'data', '--data', photos, *small)
    assert '16x16 crops, 3 images of 64x64 a stream' in out
    assert out.count('\n| ') == 2 + 8 + len(benchmark.EXAMPLES)
    with pytest.raises(SystemExit, match='error: .*photos: no image is as large as 128x128; give a smaller --size'):
        command_line(monkeypatch, capsys, 'data', '--data', photos, '--size', '128')
