"""From a data set as it is downloaded to LMDBs: the command noiseda-prepare."""
import argparse
import hashlib
import re
import shutil
from collections import Counter
from os import path as osp
from typing import NamedTuple

import numpy as np

from noiseda_basicsr import InputError, errors_in_one_line
from noiseda_data.layouts import DATASETS, Part
from noiseda_data.lmdb_writer import check_lmdb, create_lmdb, database_keys, encode_png, sub_images
from noiseda_data.store import FolderStore, RawStore, open_one, read_meta_info

GIB = 2**30


class Job(NamedTuple):
    """One LMDB to write."""

    target: str
    store: object
    part: Part
    crop: int | None  # side of the sub-images the writer has to cut
    done: bool


class TileStore:
    """Some sub-images of every image: cells of a grid that starts at the top left, drawn by the image's name.

    Args:
        store: An image store.
        side (int): Of a cell.
        tiles (int): Cells an image; their keys are ``name_0``, ``name_1`` ...
    """

    def __init__(self, store, side, tiles):
        self.path, self.store, self.side, self.tiles = store.path, store, side, tiles
        self.keys = [f'{key}_{number}' for key in store.keys for number in range(tiles)]

    def location(self, key):
        return self.store.location(key.rpartition('_')[0])

    def read(self, key):
        name, _, number = key.rpartition('_')
        image = self.store.read(name)
        rows, columns = (length // self.side for length in image.shape[:2])
        if rows * columns < self.tiles:
            raise InputError(f'{self.location(key)}: too small for {self.tiles} crops of {self.side}x{self.side}.')
        cells = [(row, column) for row in range(rows) for column in range(columns)]
        cells.sort(key=lambda cell: hashlib.sha256(f'{name} {cell}'.encode()).digest())  # the same on every machine
        row, column = cells[int(number)]
        return image[row * self.side:(row + 1) * self.side, column * self.side:(column + 1) * self.side]


def prepare(parts, source, target, only=None, partial=False, dry_run=False, workers=None, raw=False):
    """Write the LMDBs of a data set, or those that are not there yet, and verify all of them.

    Args:
        parts (Iterable[Part]): A row of :data:`~noiseda_data.layouts.DATASETS`.
        source (str): Folder of the download.
        target (str): Folder for the LMDBs.
        only (Collection[str]): Names of the LMDBs to write. Default: all whose files are there.
        partial (bool): Take what is there where the download is incomplete.
        dry_run (bool): Say what would be done, and stop.
        workers (int): Threads. Default: one a core.
        raw (bool): Pixels as they are, not PNGs; see :func:`~noiseda_data.lmdb_writer.create_lmdb`.

    Raises:
        InputError: Nothing of the data set is there; an image lacks its partner or cannot be read; the count is not
            that of the complete download; too little disk space; an LMDB in ``target`` holds something else.
    """
    jobs = plan(parts, source, target, only, partial, raw)
    _announce(jobs, source, target, raw)
    if dry_run:
        return
    for job in jobs:
        if not job.done:
            create_lmdb(job.store, job.target, job.crop, job.part.step, workers=workers, raw=raw)
    print('Verifying: every entry is read back.')
    shapes = {job.target: _verify(job) for job in jobs}
    for part in parts:
        pair = [job.target for job in jobs if job.part is part]
        if len(pair) == 2 and shapes[pair[0]] != shapes[pair[1]]:
            name = min(name for name, _ in set(shapes[pair[0]].items()) ^ set(shapes[pair[1]].items()))
            raise InputError(f'{pair[0]} and {pair[1]}: image {name} differs in size between them. '
                             'Download it again and remove both LMDBs.')
    _report(jobs, shapes)


def plan(parts, source, target, only=None, partial=False, raw=False):
    """List of :class:`Job` for what :func:`prepare` would write; checks names and counts."""
    if not osp.isdir(source):
        raise InputError(f'{source}: no such folder. Give --src the folder of the downloaded data set.')
    known = [name for part in parts for name in part.streams if name]
    if unknown := sorted(set(only or ()) - set(known)):
        raise InputError(f'--only {unknown[0]}: this data set makes {", ".join(known)}.')
    jobs = []
    for part in parts:
        wanted = [name for name in part.streams if name and (not only or name in only)]
        if wanted:
            jobs += _plan_part(part, wanted, source, target, partial, raw)
    if not jobs:
        raise InputError(f'{source}: nothing of this data set is there; looked for '
                         f'{" and ".join(part.looks_like for part in parts)}.')
    return jobs


def _plan_part(part, wanted, source, target, partial, raw):
    stores = part.find(source)
    if not stores:
        print(f'{", ".join(wanted)}: left out, no {part.looks_like} in {source}.')
        return []
    complete = _complete_names(part, stores, source, partial)
    if len(complete) != (part.images or len(complete)) and not (part.skip_incomplete or partial):
        raise InputError(
            f'{source}: {len(complete)} images for {", ".join(wanted)}, but the complete data set has {part.images} '
            f'({part.looks_like}). Complete the download, choose others with --only, or take these with --partial.')
    jobs = []
    for name, store in zip(part.streams, stores, strict=True):
        if name in wanted:
            store.keys = complete
            if part.tiles is not None:
                store = TileStore(store, part.crop, part.tiles)
            path = osp.join(target, f'{name}.lmdb')
            crop = None if part.tiles else part.crop
            jobs.append(Job(path, store, part, crop, _is_done(path, store, crop, part.step, raw)))
    return jobs


def _complete_names(part, stores, source, partial):
    """Names that every stream has; what lacks a partner is an error, or named and left out."""
    common = set(stores[0].keys).intersection(*(store.keys for store in stores))
    incomplete = {key: store for store in stores for key in store.keys if key not in common}
    if incomplete and not (part.skip_incomplete or partial):
        key = min(incomplete)
        raise InputError(f'{source}: {len(incomplete)} images lack their partner, {incomplete[key].location(key)} for '
                         f'example. Complete the download ({part.looks_like}), or leave them out with --partial.')
    if incomplete:
        print(f'{part.streams[0]}: without partner, left out: {", ".join(sorted(incomplete))}.')
    if not common:
        raise InputError(f'{source}: no image of {part.looks_like} has its partner. Complete the download.')
    return sorted(common)


def _is_done(path, store, crop, step, raw):
    """Whether the LMDB is there already; an InputError if it is another one than would be written."""
    if not osp.exists(path):
        return False
    there, wanted = open_one(path, '--dst'), {name: key for key, name in database_keys(store, store.keys).items()}
    entries = Counter(_image_name(key, wanted) for key in there.keys)
    if entries.keys() != wanted.keys():
        odd = min(entries.keys() ^ wanted.keys())
        raise InputError(f'{path}: exists and holds other images than asked for, {odd} for example. '
                         'Remove it, or choose another --dst.')
    longest = {max(shape) for key, shape in _shapes(path).items() if key not in wanted}  # of its sub-images
    if longest - {crop} or isinstance(there, RawStore) != raw:
        kind = 'raw pixels' if isinstance(there, RawStore) else 'PNGs'
        raise InputError(f'{path}: exists as {kind}, {f"cut at {longest.pop()}" if longest else "not cut"}, other than '
                         'asked for. Remove it, or choose another --dst.')
    [(largest, _)] = entries.most_common(1)  # small images are in one piece, however far apart the others are cut
    for name in dict.fromkeys((largest, min(wanted), max(wanted))):  # files of other data sets are often called alike
        pieces = sub_images(store.read(wanted[name]), crop, step or crop)
        if entries[name] != len(pieces):
            raise InputError(f'{path}: exists, cut at another distance than asked for (--step), or of other images. '
                             'Remove it, or choose another --dst.')
        if not all(np.array_equal(there.read(name + suffix), piece) for suffix, piece in pieces):
            raise InputError(f'{path}: exists, and its {name} is not that of --src, {store.location(wanted[name])}. '
                             'Remove it, or choose another --dst.')
    return True


def _image_name(key, images):
    """The image an entry belongs to: itself, or the one it is a sub-image of."""
    return key if key in images else re.sub(r'_s\d{3,}$', '', key)


def _announce(jobs, source, target, raw):
    """Print what is read and written; estimate the space from a few images."""
    print(f'{"LMDB in " + target:40} {"images":>8} {"read":>10} {"write about":>12}')
    needed = 0
    for job in jobs:
        size = 0 if job.done else _estimate(job, raw)
        needed += size
        read, write = f'{_source_bytes(job.store) / GIB:.2f} GiB', 'is there' if job.done else f'{size / GIB:.2f} GiB'
        print(f'{osp.basename(job.target):40} {len(job.store.keys):8} {read:>10} {write:>12}')
    parent = osp.abspath(target)
    while not osp.isdir(parent):
        parent = osp.dirname(parent)
    free = shutil.disk_usage(parent).free
    print(f'from {source}; {needed / GIB:.2f} GiB to write, {free / GIB:.2f} GiB free.')
    if needed * 1.1 > free:
        raise InputError(f'{target}: about {needed * 1.1 / GIB:.1f} GiB are needed and {free / GIB:.1f} GiB free. Make '
                         'room, choose another --dst, or write less with --only.')


def _estimate(job, raw, samples=4):
    """Bytes of an LMDB, from a few of its images."""
    keys = job.store.keys[::max(1, len(job.store.keys) // samples)][:samples]
    patches = [patch for key in keys
               for _, patch in sub_images(job.store.read(key), job.crop, job.part.step or job.crop)]
    size = sum(patch.nbytes if raw else len(encode_png(patch, compress_level=1)) for patch in patches)
    return size * len(job.store.keys) / len(keys)


def _source_bytes(store):
    store = getattr(store, 'store', store)
    files = [store.files[key] for key in store.keys] if hasattr(store, 'files') else [store.path]
    return sum(osp.getsize(file) for file in files)


def _verify(job):
    """Decode every entry; :func:`_shapes`."""
    check_lmdb(job.target)
    shapes = _shapes(job.target)
    for key, shape in shapes.items():
        if shape != (job.part.size or shape):
            raise InputError(f'{job.target} key {key}: is {_size(shape)}, but the images of this data set are '
                             f'{_size(job.part.size)}. Download it again.')
    return shapes


def _shapes(path):
    """{key: (height, width)} as meta_info.txt says them."""
    return {key: entry.size for key, entry in read_meta_info(path).items()}


def _size(shape):
    return '{}x{}'.format(*shape)


def _report(jobs, shapes):
    print(f'\n{"LMDB":40} {"images":>8} {"complete":>8} {"entries":>8}  height x width')
    for job in jobs:
        sizes = sorted(set(shapes[job.target].values()))
        text = ', '.join(map(_size, sizes[:4])) + (f' and {len(sizes) - 4} other sizes' if len(sizes) > 4 else '')
        images, complete = len(job.store.keys) // (job.part.tiles or 1), job.part.images
        note = '' if complete in (None, images) else '  INCOMPLETE'
        print(f'{job.target:40} {images:8} {complete or "-":>8} {len(shapes[job.target]):8}  {text}{note}')


def main(arguments=None):
    """The command line."""
    parser = argparse.ArgumentParser(
        prog='noiseda-prepare', formatter_class=argparse.RawDescriptionHelpFormatter,
        description='Write a data set as it was downloaded to LMDBs of the names the option files expect.\n'
                    'LMDBs that are there already are kept: an interrupted run is simply started again.',
        epilog='data sets, their LMDBs and what they are made of:\n' + '\n'.join(
            f'  {name:15} {", ".join(filter(None, part.streams)):38} {part.images or "":>7}  {part.looks_like}'
            for name, parts in DATASETS.items() for part in parts)
        + '\n  folder          NAME' + ' ' * 43 + 'any images')
    parser.add_argument('dataset', choices=[*DATASETS, 'folder'], metavar='DATASET', help='its name, see below')
    parser.add_argument('--src', required=True, help='folder of the download, unpacked')
    parser.add_argument('--dst', default='datasets', help='folder for the LMDBs (default: datasets)')
    parser.add_argument('--only', nargs='+', metavar='LMDB', help='write only these')
    parser.add_argument('--partial', action='store_true', help='take an incomplete download as it is')
    parser.add_argument('--raw', action='store_true', help='raw pixels: larger, read without decoding (docs/data.md)')
    parser.add_argument('--dry-run', action='store_true', help='say what would be done and stop')
    parser.add_argument('--workers', type=int, help='threads (default: one a core)')
    parser.add_argument('--name', help='folder: name of the LMDB (default: that of the folder)')
    parser.add_argument('--crop', type=int, help='folder: cut sub-images of this side (default: whole images)')
    parser.add_argument('--step', type=int, help='folder: distance of neighbouring sub-images (default: the crop)')
    args = parser.parse_args(arguments)
    with errors_in_one_line('Interrupted. Start the same command again: finished LMDBs are kept.'):
        prepare(_parts(args), args.src, args.dst, args.only, args.partial, args.dry_run, args.workers, args.raw)


def _parts(args):
    if args.dataset != 'folder':
        if args.name or args.crop or args.step:
            raise InputError(f'--name, --crop and --step are for folder; {args.dataset} is cut and named as it should.')
        return DATASETS[args.dataset]
    if args.crop is not None and args.crop < 1:
        raise InputError(f'--crop {args.crop}: must be at least 1.')
    name = args.name or osp.basename(osp.abspath(args.src))
    return Part((name,), lambda folder: (FolderStore(folder),), 'images', crop=args.crop, step=args.step),
