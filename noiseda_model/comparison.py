"""Several networks on the same test photos, side by side: figures, a picture, and the command compare.py."""
import argparse
from os import path as osp

import cv2
import numpy as np

from noiseda_basicsr import errors_in_one_line
from noiseda_data.store import centre
from noiseda_model.commands import check_positive, make_folder, markdown_table, named_paths, replacing, write_rows
from noiseda_model.evaluation import METRICS
from noiseda_model.metrics import lpips_network
from noiseda_model.protocols import RestoredStore, evaluate, means, open_source, save_png, to_8bit
from noiseda_model.report.versions import DEGRADED, TRUTH
from noiseda_model.restorer import Restorer


def compare(lq, gt, restorers, metrics, show=0):
    """Restore every test photo with every network and measure.

    Args:
        lq, gt: Image stores with equal names.
        restorers (dict): Name -> :class:`~noiseda_model.restorer.Restorer` (any function of an image).
        metrics (dict): Name -> block as in ``val:metrics``.
        show (int): Photos to keep.

    Returns:
        tuple: {version: {photo: {metric: float}}}, and of the photos kept {photo: {version: uint8 image}}; versions are
        'degraded', the restorers and, without figures, 'truth'.
    """
    photos = {name: {} for name in gt.keys[::max(1, len(gt.keys) // max(1, show))][:show]}
    figures = {}
    for version, store in {DEGRADED: lq, **{name: RestoredStore(lq, each) for name, each in restorers.items()}}.items():
        def keep(name, image, version=version):
            if name in photos:
                photos[name][version] = image
        figures[version] = evaluate(store, gt, metrics, keep=keep)
    for name, versions in photos.items():
        versions[TRUTH] = to_8bit(gt.read(name))
    return figures, photos


def comparison_picture(photos, figures, crop=256, caption=24):
    """One row a photo, one column a version, with its PSNR.

    Args:
        photos, figures (dict): Of :func:`compare`.
        crop (int): Side of the shown centre crop.
        caption (int): Height of the line above each picture.

    Returns:
        ndarray: RGB.
    """
    return np.concatenate([
        np.concatenate([_captioned(version, image, figures.get(version, {}).get(name), crop, caption)
                        for version, image in versions.items()], axis=1)
        for name, versions in photos.items()
    ])


def _captioned(version, image, figures, crop, caption):
    patch = centre(image, crop)
    cell = np.full((crop + caption, crop + 4, 3), 255, np.uint8)
    cell[caption:caption + patch.shape[0], :patch.shape[1]] = patch
    text = f"{version}  {figures['PSNR']:.2f} dB" if figures else version
    cv2.putText(cell, text, (4, caption - 7), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (0, 0, 0), 1, cv2.LINE_AA)
    return cell


def main(arguments=None):
    """The command line."""
    parser = argparse.ArgumentParser(
        prog='compare.py', description='Measure trained networks on the same test photos: a table, a CSV and one '
        'comparison picture.')
    parser.add_argument('networks', nargs='+', metavar='NAME=WEIGHTS', help='net_g_*.pth files and what to call them')
    parser.add_argument('-opt', help='option file of the networks, for weights that do not say what they are')
    parser.add_argument('--lq', required=True, help='folder or LMDB of degraded photos')
    parser.add_argument('--gt', required=True, help='folder or LMDB of their ground truth')
    parser.add_argument('--out', required=True, help='folder for comparison.png, figures.csv and table.md')
    parser.add_argument('--lpips', action='store_true', help="LPIPS too (AlexNet: NOISEDA_ALEXNET, or downloaded)")
    parser.add_argument('--show', type=int, default=4, help='photos in the picture (default: 4)')
    args = parser.parse_args(arguments)
    with errors_in_one_line():
        run(args)


def run(args):
    """:func:`main` on parsed arguments."""
    check_positive(args, 'show')
    named = named_paths(args.networks, 'networks', (DEGRADED, TRUTH))
    lq, gt = open_source(args.lq, '--lq'), open_source(args.gt, '--gt')
    restorers = {name: Restorer(weights, args.opt) for name, weights in named.items()}
    metrics = {name: block for name, block in METRICS.items() if args.lpips or name != 'LPIPS'}
    if args.lpips:
        lpips_network()  # that its weights are missing is no image's fault
    make_folder(args.out)
    figures, photos = compare(lq, gt, restorers, metrics, args.show)
    rows = [[version, *(f'{value:.{2 if metric == "PSNR" else 4}f}' for metric, value in means(found).items())]
            for version, found in figures.items()]
    table = markdown_table(['', *metrics], rows)
    with replacing(osp.join(args.out, 'table.md')) as file:
        file.write(table + '\n')
    write_rows(osp.join(args.out, 'figures.csv'), [{'photo': name, 'version': version, **found[name]}
                                                   for name in gt.keys for version, found in figures.items()])
    save_png(osp.join(args.out, 'comparison.png'), comparison_picture(photos, figures))
    print(f'{len(gt.keys)} photos, RGB, 8 bit:\n\n{table}\n\nPicture, figures and table are in {args.out}/.')
