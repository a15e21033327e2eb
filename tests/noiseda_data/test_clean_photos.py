"""scripts/make_clean_photos.py: photos out of Debian packages, reduced; and the table of those that were used."""
import csv
import importlib.util
import shutil
import subprocess

import cv2
import numpy as np
import pytest
from cli import ROOT

from noiseda_basicsr import InputError

spec = importlib.util.spec_from_file_location('make_clean_photos', ROOT / 'scripts/make_clean_photos.py')
script = importlib.util.module_from_spec(spec)
spec.loader.exec_module(script)
FREE = ('public domain', 'CC0-', 'CC-BY-1', 'CC-BY-2', 'CC-BY-3', 'CC-BY-4', 'CC-BY-SA-')  # weights may be passed on


@pytest.mark.skipif(not shutil.which('dpkg-deb'), reason='dpkg is not installed')
def test_photos_come_out_of_packages_reduced_by_area_averaging(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    inside = tmp_path / 'package/usr'
    inside.mkdir(parents=True)
    (inside.parent / 'DEBIAN').mkdir()
    (inside.parent / 'DEBIAN/control').write_text(
        'Package: photos\nVersion: 1:2.0-1\nArchitecture: all\nMaintainer: A <a@b>\nDescription: photos\n')
    cv2.imwrite(str(inside / 'plain.png'), image)
    table = tmp_path / 'photos.tsv'
    table.write_text('name\tlongest side\tpackage\tfile\na\t30\tphotos=1:2.0-1\tusr/plain.png\n')

    with pytest.raises(InputError, match='no photos of version 1:2.0-1 there; apt-get download photos=1:2.0-1'):
        list(script.make(tmp_path, tmp_path / 'out', table))
    subprocess.run(['dpkg-deb', '--build', tmp_path / 'package', tmp_path / 'photos_1%3a2.0-1_all.deb'], check=True,
                   stdout=subprocess.DEVNULL)
    assert list(script.make(tmp_path, tmp_path / 'out', table)) == [str(tmp_path / 'out/a.png')]
    mean = image.reshape(20, 2, 30, 2, 3).mean(axis=(1, 3))
    assert np.abs(cv2.imread(str(tmp_path / 'out/a.png')) - mean).max() <= 0.51


def test_the_table_names_free_licences_and_authors():
    with open(script.TABLE, encoding='utf-8', newline='') as file:
        rows = list(csv.DictReader(file, delimiter='\t'))
    assert len({row['name'].lower() for row in rows}) == len(rows)
    for row in rows:
        assert row['licence'].startswith(FREE) and row['author'] and row['source'].startswith('http')
        assert int(row['longest side']) <= 2048 and row['package'].count('=') == 1
