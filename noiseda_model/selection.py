"""Which checkpoint restores best, without ground truth: ranking, its agreement with the truth, noiseda-select."""
import argparse
import contextlib
import fnmatch
import os
from os import path as osp
from typing import NamedTuple

import numpy as np
from scipy.stats import rankdata

from noiseda_basicsr import InputError, errors_in_one_line
from noiseda_data.store import centre, open_images
from noiseda_model.commands import check_positive, make_folder, markdown_table, write_rows
from noiseda_model.condition_study import NoisePredictor
from noiseda_model.criteria import CRITERIA, score
from noiseda_model.evaluation import METRICS, NIQE_BLOCK, measure, suits_niqe
from noiseda_model.protocols import to_8bit
from noiseda_model.restorer import Restorer

DEFAULT = 'transplant'
VERDICT = ('No criterion found the best checkpoint on real photos (docs/selection.md): the last ranks warn of damaged '
           'checkpoints; choose among the others by eye.')


def ranks(scores, criterion):
    """{checkpoint: rank}, 1 for the lowest; equal ones share the better rank."""
    values = rankdata([row[criterion] for row in scores.values()], method='min')
    return dict(zip(scores, values.astype(int).tolist(), strict=True))


class Agreement(NamedTuple):
    """How a criterion ranks checkpoints whose truth is known."""

    checkpoints: int
    rho: float  # Spearman's, 1: the same order as true PSNR
    low: float  # 95 % of bootstrap samples of the checkpoints lie between the two
    high: float
    loss: float  # dB that its first choice stays below the best checkpoint


def agreement(values, psnr, samples=2000, seed=0):
    """Compare a criterion with the truth.

    Args:
        values, psnr (Sequence[float]): Of the same checkpoints, two or more.
        samples (int): Of the bootstrap; those in which all values or figures are equal do not count.

    Returns:
        Agreement: rho, low and high are NaN where all values or all figures are equal.
    """
    values, psnr = np.asarray(values), np.asarray(psnr)
    loss = float(psnr.max() - psnr[values.argmin()])
    if np.ptp(rankdata(values)) == 0 or np.ptp(psnr) == 0:
        return Agreement(len(psnr), np.nan, np.nan, np.nan, loss)
    drawn = np.random.default_rng(seed).integers(len(psnr), size=(samples, len(psnr)))
    rhos = _rank_correlation(-values[drawn], psnr[drawn])
    low, high = np.nanquantile(rhos, [0.025, 0.975])
    return Agreement(len(psnr), float(_rank_correlation(-values, psnr)), float(low), float(high), loss)


def _rank_correlation(a, b):
    """Spearman's along the last axis; NaN where all are equal."""
    a, b = (rankdata(values, axis=-1) for values in (a, b))
    a, b = (values - values.mean(axis=-1, keepdims=True) for values in (a, b))
    with np.errstate(invalid='ignore'):
        return (a * b).sum(axis=-1) / np.sqrt((a * a).sum(axis=-1) * (b * b).sum(axis=-1))


# ---------------------------------------------------------------------- the command


def find_checkpoints(paths):
    """{name: file} of net_g_*.pth files, or of folders that hold some (experiments/NAME, or its models).

    The name is the experiment's and the iteration: ``train_polyu/3000``. In a folder, ``latest`` and ``best`` are left
    out where there are numbered ones, as they are copies.

    Raises:
        InputError: Nothing is there.
    """
    files = []
    for path in paths:
        if osp.isfile(path):
            files.append(path)
            continue
        folder = osp.join(path, 'models') if osp.isdir(osp.join(path, 'models')) else path
        found = fnmatch.filter(os.listdir(folder) if osp.isdir(folder) else [], 'net_g_*.pth')
        numbered = sorted((name for name in found if name[6:-4].isdigit()), key=lambda name: int(name[6:-4]))
        if not found:
            raise InputError(f'{path}: neither a file nor a folder with net_g_*.pth.')
        files += [osp.join(folder, name) for name in numbered or sorted(found)]
    named = {}
    for file in files:
        parts = osp.abspath(file).split(os.sep)
        stem = osp.splitext(parts[-1])[0].removeprefix('net_g_')
        name = f'{parts[-3]}/{stem}' if parts[-2] == 'models' else osp.splitext(file)[0]
        if osp.abspath(named.setdefault(name, file)) != osp.abspath(file):
            raise InputError(f'{named[name]} and {file} would both be called {name}; rename an experiment.')
    if len(named) < 2:
        raise InputError('There is one checkpoint; a choice needs two or more.')
    return named


def read_photos(root, option, crop, names=None, count=None):
    """{name: image}: centre crops of up to ``crop`` pixels a side, 8 bit."""
    store = open_images(root, option)
    keys = {key[1]: key for key in store.keys}
    if len(keys) < len(store.keys):
        raise InputError(f'{option} {root}: two photos have the same name; give one folder.')
    if names is not None and (missing := sorted(set(names) - set(keys))):
        raise InputError(f'{option} {root}: has no {missing[0]}; names must match those of --lq.')
    photos = {}
    for name in list(keys)[:count] if names is None else names:
        photos[name] = centre(to_8bit(store.read(keys[name])), crop)
    return photos


def read_truth(root, crop, photos):
    """The ground truth of each photo.

    Raises:
        InputError: One is missing or of another size.
    """
    truth = read_photos(root, '--gt', crop, photos)
    for name, photo in photos.items():
        if truth[name].shape != photo.shape:
            raise InputError(f'--gt {root}: {name} differs in size from that of --lq; a pair must be of equal size.')
    return list(truth.values())


def read_clean(root, photos):
    """A clean photo for each, in turn, cropped to its size.

    Raises:
        InputError: None is large enough for one of the photos.
    """
    largest = max(max(photo.shape[:2]) for photo in photos)
    images = list(read_photos(root, '--clean', largest, count=len(photos)).values())
    matched = []
    for number, photo in enumerate(photos):
        height, width = photo.shape[:2]
        turned = images[number % len(images):] + images[:number % len(images)]
        fitting = next((image for image in turned if image.shape[0] >= height and image.shape[1] >= width), None)
        if fitting is None:
            raise InputError(f'--clean {root}: no photo of {width}x{height} or more, as those of --lq; lower --crop.')
        matched.append(np.ascontiguousarray(fitting[:height, :width]))
    return matched


def choose_criteria(by, given, photos):
    """Those that can be measured with what is ``given``; NIQE only where all photos are large enough.

    Raises:
        InputError: ``by`` is not among them.
    """
    chosen = [name for name, criterion in CRITERIA.items() if criterion.needs in (None, *given)]
    if not all(map(suits_niqe, photos)):
        chosen.remove('niqe')
    if by not in chosen:
        remedies = {'clean': 'needs --clean, clean photos of anything', 'diffusion': 'needs --diffusion',
                    None: f'needs photos of two blocks of {NIQE_BLOCK}x{NIQE_BLOCK} (--crop)'}
        raise InputError(f'--by {by}: {remedies[CRITERIA[by].needs]}; or sort by {", ".join(chosen)}.')
    return chosen


def main(arguments=None):
    """The command line."""
    parser = argparse.ArgumentParser(
        prog='noiseda-select', formatter_class=argparse.RawDescriptionHelpFormatter,
        description='Rank checkpoints on photos that have no ground truth.',
        epilog='criteria, lower is better:\n' + '\n'.join(
            f'  {name:16} {criterion.text}' for name, criterion in CRITERIA.items()) + f'\n\n{VERDICT}')
    parser.add_argument('checkpoints', nargs='+', metavar='CHECKPOINT',
                        help='net_g_*.pth, or experiments/NAME for all of that run')
    parser.add_argument('--lq', required=True, help='folder or LMDB of photos to restore')
    parser.add_argument('--out', required=True, help='folder for ranking.csv')
    parser.add_argument('-opt', help='option file of the networks, for weights that do not name their own')
    parser.add_argument('--clean', help='clean photos of anything, for transplant')
    parser.add_argument('--diffusion', nargs=2, metavar=('OPT', 'WEIGHTS'),
                        help='option file and net_diffusion_*.pth of a trained diffusion network, for noise_error')
    parser.add_argument('--by', choices=CRITERIA, default=DEFAULT, metavar='NAME',
                        help=f'criterion to sort by (default: {DEFAULT})')
    parser.add_argument('--crop', type=int, default=256, help="side of the photos' centre crop (default: 256)")
    parser.add_argument('--count', type=int, default=20, help='photos to look at, from the first (default: 20)')
    parser.add_argument('--gt', help='ground truth: also say how each criterion agrees with true PSNR')
    parser.add_argument('--group', action='append', default=[], metavar='PATTERN',
                        help='with --gt: also among the checkpoints whose names match, as "train_polyu/*"; repeatable')
    args = parser.parse_args(arguments)
    with errors_in_one_line():
        run(args)


def run(args):
    """:func:`main` on parsed arguments."""
    check_positive(args, 'crop', 'count')
    if args.group and not args.gt:
        raise InputError(f'--group {args.group[0]}: says how criteria agree with the truth; give --gt.')
    files = find_checkpoints(args.checkpoints)
    photos = read_photos(args.lq, '--lq', args.crop, count=args.count)
    given = {}
    if args.clean:
        given['clean'] = read_clean(args.clean, list(photos.values()))
    if args.diffusion:
        given['diffusion'] = NoisePredictor.load(*args.diffusion)
    by, criteria = args.by, choose_criteria(args.by, given, photos.values())
    candidates = {name: lambda file=file: Restorer(file, args.opt) for name, file in files.items()}
    truth = args.gt and read_truth(args.gt, args.crop, photos)
    make_folder(args.out)
    scores, results = score(candidates, list(photos.values()), criteria, **given)
    if not results:
        raise InputError('No checkpoint restores the photos; what is wrong with each stands above.')
    psnr = truth and dict.fromkeys(files, -np.inf) | {
        name: np.mean([measure(image, target, {'PSNR': METRICS['PSNR']})['PSNR']
                       for image, target in zip(restored, truth, strict=True)])
        for name, restored in results.items()}
    write_ranking(osp.join(args.out, 'ranking.csv'), scores, criteria, by, psnr)
    print_ranking(scores, criteria, by, psnr)
    with contextlib.suppress(FileNotFoundError):  # of an earlier selection
        os.remove(osp.join(args.out, 'agreement.csv'))
    if truth:
        table = [(criterion, group, agreement(*_paired(scores, psnr, criterion, group)))
                 for group in ['*', *args.group] for criterion in criteria]
        write_rows(osp.join(args.out, 'agreement.csv'), [
            {'group': group, 'criterion': criterion, **found._asdict()} for criterion, group, found in table])
        print_agreement(table)
    first = min(scores, key=lambda name: scores[name][by])
    print(f'\n{len(photos)} photos. First by {by}: {first} ({files[first]})\n{VERDICT}')


def _paired(scores, psnr, criterion, group):
    names = [name for name in scores if fnmatch.fnmatch(name, group)]
    if len(names) < 2:
        raise InputError(f'--group {group}: matches {len(names)} of the checkpoints, {", ".join(scores)}; it needs '
                         'two.')
    return [scores[name][criterion] for name in names], [psnr[name] for name in names]


def write_ranking(path, scores, criteria, by, psnr=None):
    """A row for each checkpoint, best first: its criteria, their ranks, and PSNR where there is truth."""
    ranked = {criterion: ranks(scores, criterion) for criterion in criteria}
    write_rows(path, [{'checkpoint': name, **({'psnr': psnr[name]} if psnr else {}), **scores[name],
                       **{f'rank_{criterion}': ranked[criterion][name] for criterion in criteria}}
                      for name in sorted(scores, key=ranked[by].get)])


def print_ranking(scores, criteria, by, psnr=None):
    """The same for the eye: value (rank)."""
    ranked = {criterion: ranks(scores, criterion) for criterion in criteria}
    columns = {'checkpoint': list(scores)}
    if psnr:
        columns['true PSNR'] = [f'{psnr[name]:.2f}' for name in scores]
    for criterion in [by, *(name for name in criteria if name != by)]:
        columns[criterion] = [f'{row[criterion]:.4g} ({ranked[criterion][name]})' for name, row in scores.items()]
    order = sorted(range(len(scores)), key=lambda number: ranked[by][columns['checkpoint'][number]])
    print(f'Value (rank), lower is better, sorted by {by}:\n')
    print(markdown_table(list(columns), [[column[number] for column in columns.values()] for number in order]))


def print_agreement(table):
    """A row for each criterion, a column for each group; ``table``: (criterion, group, :class:`Agreement`)."""
    cells = {}
    for criterion, group, found in table:
        text = f'{found.rho:+.2f} [{found.low:+.2f}, {found.high:+.2f}] {found.loss:.2f} dB'
        cells.setdefault(criterion, {})[f'{group} (n={found.checkpoints})'] = text
    print('\nSpearman correlation with true PSNR [95 % of bootstrap samples of the checkpoints], and what the first '
          'choice costs against the best:\n')
    print(markdown_table(['criterion', *next(iter(cells.values()))],
                         [[name, *row.values()] for name, row in cells.items()]))
