"""scripts/make_real_data.py: the weak truth of a video in the rain, on one whose truth is known."""
import importlib.util

import cv2
import numpy as np
import pytest
from cli import ROOT

from noiseda_basicsr import InputError

spec = importlib.util.spec_from_file_location('make_real_data', ROOT / 'scripts/make_real_data.py')
script = importlib.util.module_from_spec(spec)
spec.loader.exec_module(script)


def scene(height=48, width=64):
    """Smooth structure, as alignment wants it."""
    noise = np.random.default_rng(0).uniform(0, 255, (height, width, 3))
    return cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 3), None, 40, 200, cv2.NORM_MINMAX).astype(np.uint8)


def test_what_shows_in_less_than_half_of_the_frames_is_not_in_the_truth(tmp_path, capsys):
    clean, rng = scene(), np.random.default_rng(1)
    frames = np.stack([np.where(rng.random((48, 64, 1)) < 0.05, 255, clean) for _ in range(61)]).astype(np.uint8)
    script.make_truth('yard', {7: frames, 8: frames[10:-10]}, tmp_path)
    for folder in ('yard', 'yard_truth'):
        assert sorted(path.name for path in (tmp_path / folder).iterdir()) == ['007.png', '008.png']
    for name in ('007.png', '008.png'):
        assert (cv2.imread(str(tmp_path / 'yard' / name)) == frames[30, ..., ::-1]).all()
        assert (cv2.imread(str(tmp_path / 'yard_truth' / name)) == clean[..., ::-1]).all()
    said = capsys.readouterr().out
    assert 'medians of even and odd frames inf' in said and 'where the frame is brighter: 100%' in said
    assert 'moves by 0.000 pixels' in said


def test_noise_is_as_often_darker_as_brighter():
    noise = np.random.default_rng(0).normal(0, 5, (48, 64, 3))
    assert script.share_of_brighter((scene() + noise).round().astype(np.uint8), scene()) == pytest.approx(0.5, abs=0.03)


def test_the_camera_s_motion_is_measured():
    image = scene()
    moved = cv2.warpAffine(image, np.float32([[1, 0, 0.3], [0, 1, 0.4]]), (64, 48), borderMode=cv2.BORDER_REFLECT)
    assert script.shift(image, moved) == pytest.approx(0.5, abs=0.05)


def test_frames_of_a_panning_camera_are_aligned():
    image = scene(160, 220)
    moves = [np.float32([[1, 0, 2.3 * step], [0, 1, -1.2 * step]]) for step in (-1, 0, 1)]
    panned = [cv2.warpAffine(image, move, (220, 160)) for move in moves]
    frames = script.aligned(panned)
    top, left = script.NTU_MARGIN
    assert (frames[1] == image[top:-top, left:-left]).all()
    assert np.abs(frames[::2].astype(float) - frames[1]).mean() < 1 < np.abs(panned[0].astype(float) - image).mean() / 3


def test_what_is_no_video_is_named(tmp_path):
    (tmp_path / 'yard.mp4').write_text('no video')
    with pytest.raises(InputError, match=r'yard.mp4: cannot be read as a video'):
        script.read_video(str(tmp_path / 'yard.mp4'))
