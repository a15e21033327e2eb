"""How the usual test sets are measured, and the command noiseda-evaluate.

A protocol is nothing but metrics as an option file's ``val:metrics`` names them, so BasicSR's own validation gives the
same figures when it is given the same blocks; and what the complete test set holds. All measure 8-bit RGB images.
"""
import argparse
import csv
import json
import time
from os import path as osp
from typing import NamedTuple

import cv2
import numpy as np
from tqdm import tqdm

from noiseda_basicsr import InputError, errors_in_one_line
from noiseda_basicsr.checkpoint import written_whole
from noiseda_data.sidd import BlockStore, check_submission, save_submission
from noiseda_data.store import open_one, to_float
from noiseda_model.commands import json_figures, make_folder, refuse_overwriting, replacing
from noiseda_model.evaluation import METRICS, NO_TRUTH, measure
from noiseda_model.inference import full_memory_told
from noiseda_model.metrics import lpips_network
from noiseda_model.restorer import Restorer

LUMA = {name: {**METRICS[name], 'test_y_channel': True} for name in ('PSNR', 'SSIM')}
ALIGNED = {'PSNR': {'type': 'calculate_psnr_aligned'}, 'SSIM': {'type': 'calculate_ssim_aligned'},
           'LPIPS': {'type': 'calculate_lpips_aligned'}}
MATLAB = {'SSIM_matlab': {'type': 'calculate_ssim_matlab'}}
SKIMAGE = {'SSIM_skimage': {'type': 'calculate_ssim_skimage'}}


class Protocol(NamedTuple):
    """A way of measuring a test set."""

    metrics: dict  # with ground truth; without one it is NIQE
    images: int | None = None  # of the complete test set
    comparable_with: str = ''  # published figures


PROTOCOLS = {
    'sidd_val': Protocol(
        METRICS | MATLAB, 1280, 'the paper (Table 1; its SSIM is SSIM_matlab) and what others call SIDD validation; '
        'not with the figures of the SIDD benchmark, whose ground truth is not public'),
    'sidd_medium': Protocol(METRICS | MATLAB, None, 'nothing published: SIDD Medium is training data'),
    'spa': Protocol(LUMA | {'LPIPS': METRICS['LPIPS']}, 1000, 'the paper (Table 2) and others that measure Y'),
    'realblur_j': Protocol(
        METRICS | SKIMAGE, 980, 'the paper (Table 3; its SSIM is SSIM_skimage); not with figures after alignment'),
    'realblur_j_aligned': Protocol(
        ALIGNED, 980, 'the literature on RealBlur (Rim et al., MPRNet ...); not with the paper, which does not align'),
    'polyu': Protocol(METRICS, 100, 'the literature on PolyU if these are its 100 published crops'),
    'cc': Protocol(METRICS, 15, 'the literature on CC'),
    'folder': Protocol(METRICS),
}

# What each block measures, for the outputs.
DEFINITIONS = {
    'calculate_psnr': '10 log10(255^2 / MSE), MSE over all pixels and channels',
    'calculate_ssim': 'Gaussian window 11x11, sigma 1.5, where it fits into the image; K1 0.01, K2 0.03; mean over '
                      'pixels and channels',
    'calculate_ssim_matlab': "as MATLAB's ssim on an H x W x 3 array: Gaussian window 11x11x11, sigma 1.5, over pixels "
                             'and channels, borders replicated; K1 0.01, K2 0.03; mean of the whole map',
    'calculate_ssim_skimage': "scikit-image's defaults: flat window 7x7 where it fits in, sample covariance; "
                              'K1 0.01, K2 0.03; mean over pixels and channels',
    'calculate_lpips': 'LPIPS 0.1, AlexNet, RGB in [-1, 1]; lower is better',
    'calculate_psnr_aligned': 'PSNR over the pixels that the aligned image covers',
    'calculate_ssim_aligned': 'Gaussian window 11x11, sigma 1.5, mean over channels and the covered pixels',
    'calculate_lpips_aligned': 'LPIPS 0.1, AlexNet, uncovered pixels black in both images; lower is better',
    'calculate_niqe': 'NIQE of Y, blocks of 96x96; no ground truth; lower is better',
}
ALIGNMENT = ('the result is scaled by one factor and warped by a homography onto the ground truth (ECC, 100 '
             'iterations, Gaussian filter 5, bicubic), as in the evaluation of RealBlur')


class RestoredStore:
    """Images of a store, restored when they are read; keeps count of the time.

    Args:
        store: Degraded images.
        restorer: :class:`~noiseda_model.restorer.Restorer`, or any function of an image.
    """

    def __init__(self, store, restorer):
        self.store, self.restorer = store, restorer
        self.path, self.keys, self.location = store.path, store.keys, store.location
        self.seconds = self.pixels = 0

    def read(self, key):
        image = self.store.read(key)
        start = time.perf_counter()
        with full_memory_told(f'{self.location(key)}: the memory is full. Give an option file with val:tile (512, say) '
                              'as -opt, or restore with noiseda-restore first, and measure its results.'):
            restored = self.restorer(image)
        self.seconds += time.perf_counter() - start
        self.pixels += image.shape[0] * image.shape[1]
        return restored


def evaluate(results, truth, metrics, filename_tmpl='{}', keep=None):
    """Measure results image by image.

    Args:
        results: Image store of the results.
        truth: Image store of the ground truth, or None.
        metrics (dict): Name -> block as in ``val:metrics``.
        filename_tmpl (str): Name of the result of the ground truth called ``{}``.
        keep (Callable): Called with every name and result, to save it.

    Returns:
        dict: Name of the ground truth -> {metric: float}.

    Raises:
        InputError: Names do not match; a pair differs in size; an image cannot be read or measured.
    """
    if '{}' not in filename_tmpl:
        raise InputError(f'--filename-tmpl {filename_tmpl}: must hold {{}}, for the name of the ground truth.')
    names = results.keys if truth is None else truth.keys
    keys = {name: name if truth is None else filename_tmpl.replace('{}', name) for name in names}
    if odd := sorted(set(keys.values()) ^ set(results.keys)):
        raise InputError(
            f'{results.path} ({len(results.keys)} images) and {truth.path} ({len(names)}) hold different names, '
            f'{odd[0]} for example; they must match (noiseda-evaluate has --filename-tmpl).')
    figures = {}
    for name, key in tqdm(keys.items(), unit='image', desc='measuring'):
        image, target = to_8bit(results.read(key)), None if truth is None else to_8bit(truth.read(name))
        if target is not None and image.shape != target.shape:
            raise InputError(f'{results.location(key)} is {image.shape[1]}x{image.shape[0]} and {truth.location(name)} '
                             f'is {target.shape[1]}x{target.shape[0]}; a pair must be of equal size.')
        figures[name] = measure(image, target, metrics, results.location(key))
        if keep:
            keep(name, image)
    return figures


def to_8bit(image):
    """As BasicSR's validation measures it; 16-bit images are rounded."""
    return image if image.dtype == np.uint8 else (to_float(image) * 255).round().astype(np.uint8)


def means(figures):
    """Mean over images of what :func:`evaluate` returns."""
    metrics = next(iter(figures.values()))
    return {metric: float(np.mean([row[metric] for row in figures.values()])) for metric in metrics}


def definition(metrics):
    """What the figures are, in words: {subject: text}."""
    words = {
        'images': 'RGB, clipped to [0, 255] and rounded to 8 bit before measuring; data range 255; no border is cut',
        'mean': "arithmetic mean of the images' figures",
        'alignment': ALIGNMENT if any(block['type'].endswith('_aligned') for block in metrics.values()) else 'none',
    }
    for name, block in metrics.items():
        luma = block.get('test_y_channel')
        words[name] = DEFINITIONS[block['type']] + ('; of Y (YCbCr, BT.601, 16 to 235, not rounded)' if luma else '')
    return words


def write_report(folder, figures, details):
    """Write ``figures.csv`` (a row an image, the last one ``mean``) and ``summary.json``; both say what is measured."""
    with replacing(osp.join(folder, 'summary.json')) as file:
        per_image = {name: json_figures(row) for name, row in figures.items()}
        json.dump({**details, 'mean': json_figures(means(figures)), 'per_image': per_image}, file, indent=1)
    with replacing(osp.join(folder, 'figures.csv')) as file:
        file.writelines(f'# {subject}: {text}\n' for subject, text in details['definition'].items())
        writer = csv.writer(file)
        writer.writerow(['image', *means(figures)])
        writer.writerows([name, *row.values()] for name, row in [*figures.items(), ('mean', means(figures))])


def main(arguments=None):
    """The command line."""
    parser = argparse.ArgumentParser(
        prog='noiseda-evaluate', formatter_class=argparse.RawDescriptionHelpFormatter,
        description='Measure restored images, or restore with a network and measure.\n'
                    'Images: a folder, an LMDB, or SIDD\'s blocks in a .mat file.',
        epilog='protocols (metrics with ground truth; images of the complete set):\n' + '\n'.join(
            f'  {name:19} {", ".join(protocol.metrics):32} {protocol.images or ""}'
            for name, protocol in PROTOCOLS.items()))
    parser.add_argument('--protocol', required=True, choices=PROTOCOLS, metavar='NAME', help='see below')
    parser.add_argument('--gt', help='ground truth; without it NIQE is measured')
    parser.add_argument('--results', help='restored images')
    parser.add_argument('--lq', help='degraded images to restore, with --weights')
    parser.add_argument('-opt', help='option file of the network, for weights that do not say what they are')
    parser.add_argument('--weights', help='net_g_*.pth')
    parser.add_argument('--out', required=True, help='folder for figures.csv and summary.json')
    parser.add_argument('--filename-tmpl', default='{}',
                        help='name of the result for the ground truth {}, as "{}_test_sidd" (default: the same)')
    parser.add_argument('--no-lpips', action='store_true', help="leave LPIPS out (it needs AlexNet's weights)")
    parser.add_argument('--save', metavar='FOLDER', help='write the restored images as PNGs')
    parser.add_argument('--submit', metavar='FILE.mat', help='write them as a submission to the SIDD benchmark')
    args = parser.parse_args(arguments)
    with errors_in_one_line():
        run(args)


def run(args):
    """:func:`main` on parsed arguments."""
    protocol = PROTOCOLS[args.protocol]
    if args.filename_tmpl != '{}' and not args.gt:
        raise InputError(f'--filename-tmpl {args.filename_tmpl}: names results by ground truth; give --gt.')
    refuse_overwriting(filter(None, (args.save, args.submit)), filter(None, (args.gt, args.lq, args.results)))
    results, truth = _open_results(args), args.gt and open_source(args.gt, '--gt')
    metrics = dict(protocol.metrics if truth else NO_TRUTH)
    if args.no_lpips:
        metrics.pop('LPIPS', None)
    if 'LPIPS' in metrics:
        lpips_network()  # that its weights are missing is no image's fault
    restored = {}
    if args.submit:
        check_submission(args.submit, truth.keys if truth else results.keys)
    for folder in filter(None, (args.out, args.save, args.submit and osp.dirname(osp.abspath(args.submit)))):
        make_folder(folder)

    def keep(name, image):
        if args.submit:
            restored[name] = image
        if args.save:
            save_png(osp.join(args.save, f'{name}.png'), image)

    figures = evaluate(results, truth or None, metrics, args.filename_tmpl, keep)
    complete = protocol.images in (None, len(figures))
    details = {
        'protocol': args.protocol, 'images': len(figures), 'complete_set': protocol.images,
        'gt': args.gt, 'results': args.results, 'lq': args.lq, 'option_file': args.opt, 'weights': args.weights,
        'definition': definition(metrics), 'comparable_with': protocol.comparable_with if truth and complete else '',
    }
    write_report(args.out, figures, details)
    if args.submit:
        seconds = results.seconds / results.pixels * 1e6 if isinstance(results, RestoredStore) else 0.0
        save_submission(args.submit, restored, seconds)
    _print_summary(figures, details, args.out)


def open_source(path, option):
    """A store of one folder, LMDB or ``.mat`` file; ``option`` names it in errors."""
    path = osp.expanduser(path)
    return BlockStore(path) if path.endswith('.mat') else open_one(path, option)


def save_png(path, image):
    """Write an RGB image."""
    with written_whole(path, 'wb', 'Is the disk full?') as file:
        file.write(cv2.imencode('.png', image[..., ::-1])[1])


def _open_results(args):
    if args.results and not (args.lq or args.opt or args.weights):
        return open_source(args.results, '--results')
    if args.lq and args.weights and not args.results:
        return RestoredStore(open_source(args.lq, '--lq'), Restorer(args.weights, args.opt))
    raise InputError('Give --results, or --lq with --weights (and -opt, if they do not say what they are).')


def _print_summary(figures, details, folder):
    for subject, text in details['definition'].items():
        print(f'{subject}: {text}')
    print(f'\n{details["protocol"]}, {details["images"]} images: '
          + '  '.join(f'{metric} {value:.4f}' for metric, value in means(figures).items()))
    if details['complete_set'] not in (None, details['images']):
        print(f'The complete test set has {details["complete_set"]} images: not comparable with published figures.')
    if details['comparable_with']:
        print(f'Comparable with {details["comparable_with"]}.')
    print(f'Figures of every image are in {folder}/.')
