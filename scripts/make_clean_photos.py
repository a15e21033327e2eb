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
import subprocess
import tempfile
from os import path as osp
from pathlib import Path

import cv2

from noiseda_basicsr import InputError, errors_in_one_line
from noiseda_data.photo import Photo
from noiseda_model.protocols import save_png

TABLE = Path(__file__).resolve().parents[1] / 'noiseda_model/weights/photos.tsv'


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
    for package in sorted({row['package'] for row in rows}):
        with tempfile.TemporaryDirectory() as folder:
            _unpack(packages, package, folder)
            for row in rows:
                if row['package'] == package:
                    target = osp.join(out, f'{row["name"]}.png')
                    _reduce(osp.join(folder, row['file']), target, int(row['longest side']))
                    yield target


def _unpack(packages, package, folder):
    name, version = package.split('=')
    found = sorted(Path(packages).glob(f'{name}_{version.replace(":", "%3a")}_*.deb'))
    if not found:
        raise InputError(f'{packages}: no {name} of version {version} there; apt-get download {package} brings it.')
    subprocess.run(['dpkg', '-x', found[0], folder], check=True)


def _reduce(source, target, longest):
    photo = Photo(source)
    factor = longest / max(photo.width, photo.height)
    size = round(photo.width * factor), round(photo.height * factor)
    save_png(target, cv2.resize(photo.read(), size, interpolation=cv2.INTER_AREA))


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
