"""Measure trained networks on the same test photos: a table, a CSV and one comparison picture.

    python scripts/compare.py -opt options/train/train_polyu.yml --lq datasets/polyu_test_noisy.lmdb \\
        --gt datasets/polyu_test_clean.lmdb --out results/polyu \\
        vanilla=experiments/train_polyu_vanilla/models/net_g_latest.pth \\
        adapted=experiments/train_polyu/models/net_g_latest.pth
"""
import argparse
import csv
import os
from os import path as osp

import cv2

from noiseda_basicsr import errors_in_one_line
from noiseda_model.evaluation import METRICS, compare, comparison_picture, markdown_table
from noiseda_model.restorer import Restorer


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('networks', nargs='+', metavar='NAME=WEIGHTS', help='net_g_*.pth files and what to call them')
    parser.add_argument('-opt', help='option file of the networks, for weights that do not say what they are')
    parser.add_argument('--lq', required=True, help='folder or LMDB of degraded photos')
    parser.add_argument('--gt', required=True, help='folder or LMDB of their ground truth')
    parser.add_argument('--out', required=True, help='folder for comparison.png, figures.csv and table.md')
    parser.add_argument('--lpips', action='store_true', help="LPIPS too (AlexNet: NOISEDA_ALEXNET, or downloaded)")
    parser.add_argument('--show', type=int, default=4, help='photos in the picture (default: 4)')
    args = parser.parse_args()
    with errors_in_one_line():
        run(args)


def run(args):
    named = [text.partition('=')[::2] for text in args.networks]
    restorers = {name: Restorer(weights, args.opt) for name, weights in named}
    metrics = list(METRICS) if args.lpips else ['PSNR', 'SSIM']
    means, photos = compare(args.lq, args.gt, restorers, metrics)
    os.makedirs(args.out, exist_ok=True)
    table = markdown_table(means)
    with open(osp.join(args.out, 'table.md'), 'w') as file:
        file.write(table + '\n')
    with open(osp.join(args.out, 'figures.csv'), 'w', newline='') as file:
        writer = csv.writer(file)
        writer.writerow(['photo', 'version', *metrics])
        for photo, versions in photos.items():
            writer.writerows([photo, name, *figures.values()] for name, (_, figures) in versions.items() if figures)
    names = list(photos)[::max(1, len(photos) // args.show)][:args.show]
    cv2.imwrite(osp.join(args.out, 'comparison.png'), comparison_picture(photos, names)[..., ::-1])
    print(f'{len(photos)} photos, RGB, 8 bit:\n\n{table}\n\nPicture, figures and table are in {args.out}/.')


if __name__ == '__main__':
    main()
