"""Measure this project's speed on this machine.

    python scripts/benchmark.py data                      # readers of training data, on images it makes up
    python scripts/benchmark.py data --data photos/       # on crops of yours
"""
import argparse
import sys
import tempfile
from statistics import median

import cv2
import torch

from noiseda_basicsr import InputError
from noiseda_basicsr.fixes import apply_fixes
from noiseda_data import benchmark


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, metavar='COMMAND')
    add_data(commands)
    args = parser.parse_args()
    try:
        args.run(args)
    except InputError as error:
        sys.exit(f'error: {error}')


def add_data(commands):
    parser = commands.add_parser('data', help='images a second of every way to read training data, one worker')
    parser.add_argument('--data', help='folder or LMDB of images at least --size large (default: made-up images)')
    parser.add_argument('--images', type=int, default=100, help='images a stream (default: 100)')
    parser.add_argument('--size', type=int, default=512, help='their side (default: 512)')
    parser.add_argument('--patch', type=int, default=128, help='side of the crops (default: 128)')
    parser.add_argument('--rounds', type=int, default=7, help='turns of each reader (default: 7)')
    parser.add_argument('--seconds', type=float, default=0.4, help='length of a turn (default: 0.4)')
    parser.set_defaults(run=run_data)


def run_data(args):
    apply_fixes()  # BasicSR's reader, too, may open a database that is open
    torch.set_num_threads(1)  # as in a worker
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as folder:
        benchmark.make_images(folder, args.data, args.images, args.size)
        speeds = benchmark.compare_readers(folder, args.patch, args.rounds, args.seconds)
    print(f'\n{args.patch}x{args.patch} crops, {args.images} images of {args.size}x{args.size} a stream, one worker\n')
    print("| reader | samples/s | images/s | times BasicSR's PNG LMDB |\n|---|---|---|---|")
    for name, speed in speeds.items():
        samples = median(speed.samples)
        times = benchmark.ratio(speed, speeds[benchmark.BASELINE])
        print(f'| {name} | {samples:,.0f} | {samples * speed.images:,.0f} | {times:.1f} |')
    for one, other in benchmark.RATIOS:
        print(f'\n{one} / {other}: {benchmark.ratio(speeds[one], speeds[other]):.2f}')
    print('\n| degradation | ms a patch |\n|---|---|')
    for name, milliseconds in benchmark.degradation_costs(args.patch, args.rounds, args.seconds).items():
        print(f'| {name} | {milliseconds:.2f} |')


if __name__ == '__main__':
    main()
