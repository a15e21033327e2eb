"""The command noiseda-restore: which photos, where to, and one after the other."""
import argparse
import glob
import os
import re
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from os import path as osp

from tqdm import tqdm

from noiseda_basicsr import InputError, errors_in_one_line
from noiseda_data.photo import WRITERS, Photo, kind
from noiseda_data.store import files_below, printable
from noiseda_model.commands import make_folder, refuse_overwriting
from noiseda_model.engine import DTYPES
from noiseda_model.restorer import OVERLAP, SHIPPED, Restorer

NOT_WRITTEN = ('.avif', '.bmp', '.dng', '.gif', '.heic', '.heif', '.jxl', '.ppm')  # endings that a folder hardly has


def plan(inputs, out, ending=None):
    """Which file becomes which.

    Args:
        inputs (list[str]): Files, folders (everything below), or patterns such as ``photos/**/*.jpg``.
        out (str): A folder; what lies below an input folder keeps its place. Or a file, for a single one.
        ending (str): Of all outputs, '.png' say. Default: each keeps its own.

    Returns:
        dict: Target -> source, in order.

    Raises:
        InputError: Nothing is found, two sources have one target, or a target is one of the sources.
    """
    found = {}
    for name in inputs:
        for root, path in _expand(osp.expanduser(name), out):
            stem, own = osp.splitext(osp.relpath(path, root))
            target = osp.join(out, stem + (ending or own))
            if osp.realpath(found.setdefault(target, path)) != osp.realpath(path):
                raise InputError(f'{found[target]} and {path} would both become {target}; restore them one at a time.')
    if kind(out) in NOT_WRITTEN and not osp.isdir(out):
        raise InputError(f'-o {out}: cannot be written; the ending must be one of {", ".join(sorted(WRITERS))}.')
    if len(found) == 1 and kind(out) in WRITERS and not osp.isdir(out):
        if ending not in (None, kind(out)):
            raise InputError(f'-o {out}: its ending is not that of --format; leave one of them out.')
        found = dict(zip([out], found.values(), strict=True))
    refuse_overwriting(found, found.values())
    return found


def _expand(name, out):
    """(folder that keeps the structure below it, file) for each photo of one input."""
    if osp.isfile(name):
        return [(osp.dirname(name), name)]
    if name.rstrip('/').endswith('.lmdb') and osp.isdir(name):
        raise InputError(f'{name}: is an LMDB; make a folder of it, python scripts/create_lmdb.py --extract.')
    if not osp.exists(name) and not glob.has_magic(name):
        raise InputError(f'{name}: does not exist.')
    if osp.isdir(name):
        if osp.realpath(name) == osp.realpath(out):
            raise InputError(f'-o {out}: holds the photos to restore; choose another folder.')
        root, paths = name, [osp.join(name, path) for path in files_below(name)]
    else:
        root, paths = osp.dirname(re.split(r'[*?\[]', name)[0]), glob.glob(name, recursive=True)
    files = sorted(path for path in paths if kind(path) in WRITERS and osp.isfile(path))
    if osp.realpath(root) != osp.realpath(out):  # leave out what an earlier run wrote to a folder in there
        files = [path for path in files if not osp.realpath(path).startswith(osp.realpath(out) + os.sep)]
    if not files:
        raise InputError(f'{name}: no photo there (looked for {" ".join(sorted(WRITERS))}).')
    return [(root, path) for path in files]


def left_out(inputs):
    """Files in the folders among ``inputs`` that are no photos to restore."""
    folders = [folder for folder in map(osp.expanduser, inputs) if osp.isdir(folder)]
    return sorted(osp.join(folder, path) for folder in folders for path in files_below(folder)
                  if kind(path) not in WRITERS)


def restore_files(restorer, files, quality=95):
    """Restore many files, encoding one while the next is in the network. A bad one does not stop the others.

    Args:
        restorer (Restorer)
        files (dict): Target -> source.
        quality (int): Of JPEG and WebP.

    Returns:
        dict: Source -> what was wrong with it.
    """
    def encode(writer, source):
        try:
            with writer:
                writer.finish()
        except InputError as error:
            failed[source] = str(error)

    failed, start = {}, time.perf_counter()
    sizes = {source: _megapixels(source) for source in files.values()}
    bar = tqdm(total=sum(sizes.values()), disable=None,  # none without a terminal
               bar_format='{l_bar}{bar}| {n:.1f}/{total:.1f} Mpx [{elapsed}<{remaining}{postfix}]')
    with bar, ThreadPoolExecutor(1) as pool:
        encoding = pool.submit(lambda: None)
        for number, (target, source) in enumerate(files.items(), 1):
            try:
                writer = restorer.rows_of_file(source, target, quality, lambda pixels: bar.update(pixels / 1e6))
                encoding.result()
                encoding = pool.submit(encode, writer, source)
            except InputError as error:
                failed[source] = str(error)
            rate = number / (time.perf_counter() - start)
            bar.set_postfix_str(f'{number}/{len(files)} photos, {rate:.2f} photos/s')
        encoding.result()  # of the last one, for errors that are no photo's
    return failed


def _megapixels(path):
    try:
        photo = Photo(path)
    except InputError:  # told when its turn comes
        return 0
    return photo.width * photo.height / 1e6


def main(arguments=None):
    """The command line."""
    parser = argparse.ArgumentParser(
        prog='noiseda-restore', description='Restore photos with a trained network. Photos already restored are kept.')
    parser.add_argument('input', nargs='+', help='files, folders, or patterns in quotes ("photos/**/*.jpg")')
    parser.add_argument('-o', '--out', required=True, help='folder for the restored photos, or a file for a single one')
    parser.add_argument('--weights', help='net_g_*.pth, or any file that spandrel recognises '
                        '(default: the network shipped here, which removes noise)')
    parser.add_argument('-opt', help='option file of the network, for weights that do not say what they are')
    parser.add_argument('--key', choices=['params_ema', 'params'], help='weights to take (default: averaged, if there)')
    parser.add_argument('--overwrite', action='store_true', help='restore again what is there already')
    parser.add_argument('--format', choices=sorted({ending[1:] for ending in WRITERS}), help='of the results '
                        '(default: that of each photo)')
    parser.add_argument('--quality', type=int, default=95, help='of JPEG and WebP, 1 to 100 (default: 95)')
    parser.add_argument('--tile', type=tile, default='auto', help='largest side given to the network; 0: whole '
                        'photos; auto (default): by the free memory')
    parser.add_argument('--overlap', type=int, help=f'pixels that tiles share (default: {OVERLAP}; a quarter of '
                        f'tiles below {4 * OVERLAP})')
    parser.add_argument('--batch', type=int, default=1, help='tiles at a time (default: 1)')
    parser.add_argument('--precision', choices=DTYPES, default='fp32', help='of the network (default: fp32)')
    parser.add_argument('--device', help='cuda, cuda:1, mps, cpu (default: the best there is)')
    parser.add_argument('--self-ensemble', action='store_true', help='mean over 8 flips and rotations, in 8 times the '
                        'time')
    args = parser.parse_args(arguments)
    with errors_in_one_line('Stopped. Finished photos are complete; the same command goes on with the rest.'):
        failed = run(args)
    sys.exit(1 if failed else 0)


def tile(text):
    return text if text == 'auto' else int(text) or None


def run(args):
    """:func:`main` on parsed arguments; returns what failed."""
    for name, value, highest in (('--quality', args.quality, 100), ('--batch', args.batch, 4096)):
        if not 1 <= value <= highest:
            raise InputError(f'{name} is {value}; it must be 1 to {highest}.')
    if args.opt and not args.weights:
        raise InputError(f'-opt {args.opt}: whose weights? Give them with --weights, or leave -opt out.')
    if args.overlap is not None and args.tile is None:
        raise InputError(f'--overlap {args.overlap}: whole photos (--tile 0) have none; leave one of the two out.')
    out = osp.expanduser(args.out)
    files = plan(args.input, out, args.format and f'.{args.format}')
    if others := left_out(args.input):
        kinds = ', '.join(sorted(ending[1:] for ending in WRITERS))
        print(f'Left out, as of other kinds than {kinds}: {len(others)}, {printable(others[0])} for example.')
    todo = {target: source for target, source in files.items() if args.overwrite or not osp.exists(target)}
    if len(todo) < len(files):
        print(f'{len(files) - len(todo)} of {len(files)} photos are restored already, with the weights given then; '
              '--overwrite restores them anew, another -o beside them.')
    if not todo:
        return {}
    restorer = Restorer(args.weights or SHIPPED, args.opt, args.key, args.device, args.precision, args.tile,
                        args.overlap, args.batch, args.self_ensemble)
    make_folder(osp.dirname(osp.abspath(next(iter(todo)))))
    how = f'tiles of {restorer.tile} pixels that share {restorer.overlap}' if restorer.tile else 'whole photos'
    source = args.weights or 'the shipped denoiser (--weights takes another)'
    print(f'{type(restorer.net).__name__} of {source} on {restorer.device}, {args.precision}, {how}.', flush=True)
    start = time.perf_counter()
    failed = restore_files(restorer, todo, args.quality)
    seconds, restored = time.perf_counter() - start, len(todo) - len(failed)
    print(f'Restored {restored} of {len(todo)} photos to {out} in {seconds:.1f} s, '
          f'{restored / seconds:.3g} photos/s.')
    for message in failed.values():
        print(f'error: {message}', file=sys.stderr)
    return failed
