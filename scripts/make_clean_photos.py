"""The clean photos that the shipped network was trained on, made from Debian packages.

The packages are Debian 13's and, the older versions, Debian 11's; apt needs the lists of both.

    mkdir debs
    tail -n +2 noiseda_model/weights/photos.tsv | cut -f 3 | sort -u | (cd debs && xargs apt-get download)
    python scripts/make_clean_photos.py debs/ clean_photos/

Each photo is reduced by area averaging to the longest side that the table gives, and written as PNG. What the packages'
own JPEG compression and their cameras' noise left is then below what can be seen.
"""
import argparse
import csv
import os
import struct
import subprocess
import tempfile
import zlib
from os import path as osp
from pathlib import Path

import cv2

from noiseda_basicsr import InputError, errors_in_one_line
from noiseda_data.photo import Photo

TABLE = Path(__file__).parents[1] / 'noiseda_model/weights/photos.tsv'


def make(packages, out, table=TABLE):
    """Write the photos of the table.

    Args:
        packages (str): Folder of .deb files, as apt-get download names them.
        out (str): Folder for the PNG files.
        table (str): Tab-separated, with the columns name, longest side, package (NAME=VERSION) and file.

    Yields:
        str: Each file written.
    """
    with open(table, encoding='utf-8', newline='') as file:
        rows = list(csv.DictReader(file, delimiter='\t'))
    os.makedirs(out, exist_ok=True)
    for package in sorted({row['package'] for row in rows}):
        with tempfile.TemporaryDirectory() as folder:
            _unpack(packages, package, folder)
            for row in rows:
                if row['package'] == package:
                    target = osp.join(out, f'{row["name"]}.png')
                    _reduce(_in_folder(folder, row['file']), target, int(row['longest side']))
                    yield target


def _unpack(packages, package, folder):
    name, version = package.split('=')
    found = sorted(Path(packages).glob(f'{name}_{version.replace(":", "%3a")}_*.deb'))
    if not found:
        raise InputError(f'{packages}: no {name} of version {version} there; apt-get download {package} brings it.')
    subprocess.run(['dpkg', '-x', found[0], folder], check=True)


def _in_folder(folder, name):
    """The file of that name; one inside a Qt resource file, ``a.rcc/path``, is taken out of it first."""
    archive, inside, rest = name.partition('.rcc/')
    if not inside:
        return osp.join(folder, name)
    path = osp.join(folder, osp.basename(rest))
    Path(path).write_bytes(_resource(Path(folder, f'{archive}.rcc').read_bytes(), rest.split('/')))
    return path


def _resource(content, path):
    """One file of a Qt resource file: a tree of nodes, their names, their data."""
    version, tree, data, names = struct.unpack_from('>4I', content, 4)
    size = 14 if version == 1 else 22

    def name(node):
        start = names + struct.unpack_from('>I', content, tree + node * size)[0]
        length = struct.unpack_from('>H', content, start)[0]
        return content[start + 6:start + 6 + 2 * length].decode('utf-16-be')

    node = 0
    for part in path:
        count, first = struct.unpack_from('>II', content, tree + node * size + 6)
        node = next(child for child in range(first, first + count) if name(child) == part)
    flags, = struct.unpack_from('>H', content, tree + node * size + 4)
    start = data + struct.unpack_from('>I', content, tree + node * size + 10)[0]
    length, = struct.unpack_from('>I', content, start)
    stored = content[start + 4:start + 4 + length]
    return zlib.decompress(stored[4:]) if flags & 1 else stored


def _reduce(source, target, longest):
    photo = Photo(source)
    factor = longest / max(photo.width, photo.height)
    size = round(photo.width * factor), round(photo.height * factor)
    cv2.imwrite(target, cv2.resize(photo.read(), size, interpolation=cv2.INTER_AREA)[..., ::-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('packages', help='folder of the .deb files')
    parser.add_argument('out', help='folder for the photos')
    args = parser.parse_args()
    with errors_in_one_line():
        for number, _ in enumerate(make(args.packages, args.out), 1):
            print(f'\r{number} photos', end='', flush=True)
    print(f' in {args.out}')


if __name__ == '__main__':
    main()
