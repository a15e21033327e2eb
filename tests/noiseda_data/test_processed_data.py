"""scripts/make_processed_data.py: its camera changes nothing but what it says, and its noise is that of a sensor."""
import importlib.util

import cv2
import numpy as np
import pytest
from cli import ROOT
from images import write_images

spec = importlib.util.spec_from_file_location('make_processed_data', ROOT / 'scripts/make_processed_data.py')
script = importlib.util.module_from_spec(spec)
spec.loader.exec_module(script)


@pytest.mark.parametrize('level', [0.1, 0.5, 0.9])
def test_without_noise_an_even_scene_returns_as_it_was(level):
    scene = np.full((64, 64, 3), [level, 0.5, 0.3], np.float32)
    photo = script.take(scene, np.random.default_rng(0), noisy=False)
    assert np.abs(photo - scene).max() < 2.5 / 255  # JPEG


def test_noise_has_no_mean_also_in_the_dark_and_grows_with_the_light():
    """On the sensor, so before the gamma: where it is dark, the gamma makes it larger again."""
    linear = []
    for level in (0.2, 0.8):
        scene = np.full((256, 256, 3), level, np.float32)
        truth, photo = (script.take(scene, np.random.default_rng(3), noisy).astype(np.float64)**2.2
                        for noisy in (False, True))
        linear.append(((photo - truth).mean(), photo.std()))
    (dark_mean, dark), (light_mean, light) = linear
    assert abs(dark_mean) < 0.15 * dark and abs(light_mean) < 0.15 * light
    assert light > 1.5 * dark > 0


def test_a_plain_camera_reduces_no_noise(monkeypatch):
    scene, left = np.full((128, 128, 3), 0.5, np.float32), {}
    for name in ('SHOT', 'SHOT_PLAIN'):
        monkeypatch.setattr(script, name, (0.001, 0.001))
    for plain in (False, True):
        truth, photo = (script.take(scene, np.random.default_rng(3), noisy, plain) for noisy in (False, True))
        left[plain] = (photo - truth).std()
    assert left[True] > 1.7 * left[False]


def test_each_split_and_its_truth(tmp_path, monkeypatch):
    monkeypatch.setattr(script, 'CROP', 32)
    write_images(tmp_path / 'clean', 3, seed=0)
    script.main([str(tmp_path / 'clean'), str(tmp_path / 'out')])
    for split, count in (('test', 1), ('val', 1), ('train', 4)):
        folders = [tmp_path / 'out' / f'{name}_{split}' for name in ('processed', 'processed_truth')]
        names = [sorted(path.name for path in folder.iterdir()) for folder in folders]
        assert names[0] == names[1] and len(names[0]) == count
        noisy, truth = (cv2.imread(str(folder / names[0][0])) for folder in folders)
        assert noisy.shape == (32, 32, 3) and (noisy != truth).any()
    with pytest.raises(SystemExit, match='out/processed_test: exists already'):
        script.main([str(tmp_path / 'clean'), str(tmp_path / 'out')])
    monkeypatch.setattr(script, 'CROP', 4096)
    with pytest.raises(SystemExit, match='is smaller than 4096x4096'):
        script.main([str(tmp_path / 'clean'), str(tmp_path / 'other')])
