"""scripts/make_clean_photos.py: photos out of Debian packages, reduced; and the table of those that were used."""
import csv
import importlib.util
import shutil
import struct
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


def resource_file(name, content):
    """A Qt resource file, version 3, with content as deep/NAME beside a decoy."""
    names, offsets = b'', []
    for text in ('deep', 'decoy', name):
        offsets.append(len(names))
        names += struct.pack('>HI', len(text), 0) + text.encode('utf-16-be')
    data = struct.pack('>I', 3) + b'not' + struct.pack('>I', len(content)) + content
    nodes = [struct.pack('>IHII8x', 0, 2, 1, 1), struct.pack('>IHII8x', offsets[0], 2, 2, 2),
             struct.pack('>IHHHI8x', offsets[1], 0, 0, 0, 0), struct.pack('>IHHHI8x', offsets[2], 0, 0, 0, 7)]
    tree, after = 24, 24 + 22 * len(nodes)
    return b'qres' + struct.pack('>5I', 3, tree, after, after + len(data), 0) + b''.join(nodes) + data + names


@pytest.mark.skipif(not shutil.which('dpkg-deb'), reason='dpkg is not installed')
def test_photos_come_out_of_packages_reduced_by_area_averaging(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    inside = tmp_path / 'package/usr'
    inside.mkdir(parents=True)
    (inside.parent / 'DEBIAN').mkdir()
    (inside.parent / 'DEBIAN/control').write_text(
        'Package: photos\nVersion: 1:2.0-1\nArchitecture: all\nMaintainer: A <a@b>\nDescription: photos\n')
    cv2.imwrite(str(inside / 'plain.png'), image)
    (inside / 'some.rcc').write_bytes(resource_file('packed.png', (inside / 'plain.png').read_bytes()))
    table = tmp_path / 'photos.tsv'
    files = {'a': 'plain.png', 'b': 'some.rcc/deep/packed.png'}
    table.write_text('name\tlongest side\tpackage\tfile\n' + ''.join(
        f'{name}\t30\tphotos=1:2.0-1\tusr/{file}\n' for name, file in files.items()))

    with pytest.raises(InputError, match='no photos of version 1:2.0-1 there; apt-get download photos=1:2.0-1'):
        list(script.make(tmp_path, tmp_path / 'out', table))
    subprocess.run(['dpkg-deb', '--build', tmp_path / 'package', tmp_path / 'photos_1%3a2.0-1_all.deb'], check=True,
                   stdout=subprocess.DEVNULL)
    assert len(list(script.make(tmp_path, tmp_path / 'out', table))) == 2
    mean = image.reshape(20, 2, 30, 2, 3).mean(axis=(1, 3))
    for name in 'ab':
        assert np.abs(cv2.imread(str(tmp_path / f'out/{name}.png')) - mean).max() <= 0.51


def test_the_table_names_free_licences_and_authors():
    with open(script.TABLE, encoding='utf-8', newline='') as file:
        rows = list(csv.DictReader(file, delimiter='\t'))
    assert len(rows) >= 60 and len({row['name'].lower() for row in rows}) == len(rows)
    for row in rows:
        assert row['licence'].startswith(FREE) and row['author'] and row['source'].startswith('http')
        assert int(row['longest side']) <= 2048 and row['package'].count('=') == 1
