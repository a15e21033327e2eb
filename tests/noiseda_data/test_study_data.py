"""make_study_data.py and make_selection_data.py of scripts/: no scene is both adapted to and tested on."""
import importlib
import sys

import cv2
import numpy as np
import pytest
from cli import ROOT
from images import write_images


@pytest.fixture
def script(request, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / 'scripts'))
    yield importlib.import_module(request.param)
    for name in ('make_study_data', 'make_selection_data'):
        sys.modules.pop(name, None)


def names(folder):
    return {path.stem for path in folder.iterdir()}


@pytest.mark.parametrize('script', ['make_study_data'], indirect=True)
def test_study(script, tmp_path):
    out = tmp_path / 'out'
    write_images(tmp_path / 'clean', 10)
    script.main([str(tmp_path / 'clean'), str(out)])
    for domain, truth in (('correlated', 'truth'), ('camera', 'truth'), ('large', 'large_truth')):
        splits = [names(out / f'{domain}_{split}') for split in ('test', 'val', 'train')]
        assert [len(split) for split in splits] == [2, 2, 6] and len(set.union(*splits)) == 10
        for split in ('test', 'val'):
            assert names(out / f'{truth}_{split}') == names(out / f'{domain}_{split}')
    for key in names(out / 'truth_test'):
        truth, clean = (cv2.imread(str(folder / f'{key}.png')) for folder in (out / 'truth_test', tmp_path / 'clean'))
        assert np.array_equal(truth, clean)


@pytest.mark.parametrize('script', ['make_study_data', 'make_selection_data'], indirect=True)
def test_nothing_is_written_beside_an_earlier_run(script, tmp_path):
    """With more photos others would be the test, and those of the earlier test stay among the photos to adapt to."""
    write_images(tmp_path / 'clean', 5)
    sources = [str(tmp_path / 'clean')] * (2 if 'selection' in script.__name__ else 1)
    script.main([*sources, str(tmp_path / 'out')])
    write_images(tmp_path / 'clean/more', 3)
    for number, folder in enumerate(sorted((tmp_path / 'out').iterdir())):  # any one of them is enough
        alone, before = tmp_path / str(number) / folder.name, names(folder)
        alone.parent.mkdir()
        folder.rename(alone)
        with pytest.raises(SystemExit, match=f'{number}/{folder.name}: exists already'):
            script.main([*sources, str(alone.parent)])
        assert list(alone.parent.iterdir()) == [alone] and names(alone) == before
