"""Measure this project's speed on this machine.

    python scripts/benchmark.py step                      # a joint step at the paper's networks, option by option
    python scripts/benchmark.py step --hinge open --batch 4
    python scripts/benchmark.py data                      # readers of training data, on images it makes up
    python scripts/benchmark.py data --data photos/       # on crops of yours
    python scripts/benchmark.py restore --weights net_g.pth --photo photo.jpg    # seams, memory, share of the network
"""
import argparse
import json
import multiprocessing
import platform
import tempfile
from statistics import median

import cv2
import torch

from noiseda_basicsr import errors_in_one_line
from noiseda_basicsr.fixes import apply_fixes
from noiseda_data import benchmark
from noiseda_model import benchmark as step_benchmark
from noiseda_model import restore_benchmark
from noiseda_model.engine import DTYPES


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, metavar='COMMAND')
    add_step(commands)
    add_data(commands)
    add_restore(commands)
    args = parser.parse_args()
    with errors_in_one_line():
        args.run(args)


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


def add_step(commands):
    parser = commands.add_parser('step', help='samples/s, memory and share of the convolution peak of a joint step')
    parser.set_defaults(run=run_step)
    parser.add_argument('-opt', default='options/train/train_sidd.yml', help='whose networks (default: %(default)s)')
    parser.add_argument('--batch', type=int, help="samples a step (default: 2; on a GPU the option file's)")
    parser.add_argument('--size', type=int, help="side of a patch (default: the option file's)")
    parser.add_argument('--hinge', nargs='+', choices=step_benchmark.MARGINS, default=['closed'],
                        help='states of the hinge of Eq. 3 (default: closed)')
    parser.add_argument('--rounds', type=int, default=7, help='steps of each variant (default: 7)')
    parser.add_argument('--only', nargs='+', metavar='VARIANT', help='run these alone (names as in the table)')
    parser.add_argument('--equal', type=int, default=20, metavar='STEPS', help='steps to compare losses over; 0: none')
    parser.add_argument('--json', help='write the figures to this file too')


def run_step(args):
    opt = step_benchmark.options(args.opt, args.batch, args.size)
    device = torch.device('cuda' if opt['num_gpu'] else 'cpu')
    samples, size = (opt['datasets']['train'][key] for key in ('batch_size_per_gpu', 'gt_size'))
    print(f'{hardware(device)}; torch {torch.__version__}; {args.opt}, batch {samples} of {size}x{size}', flush=True)
    table = step_benchmark.variants(device)
    result = {}
    for hinge, rows in step_benchmark.compare(opt, args.only or list(table), args.rounds, args.hinge,
                                              tell=lambda line: print(line, flush=True)):
        if device.type == 'cpu':
            with multiprocessing.get_context('spawn').Pool(1, maxtasksperchild=1) as pool:
                for row in rows:
                    row['memory'] = pool.apply(step_benchmark.peak_memory, (opt, table[row['name']], hinge))
        print(f'\nhinge {hinge}\n\n{step_benchmark.markdown_table(rows, samples)}', flush=True)
        result[hinge] = rows
    differences = {}
    for hinge in args.hinge if args.equal else []:
        differences[hinge] = step_benchmark.loss_difference(opt, {}, args.equal, hinge)
        print(f'\nhinge {hinge}: largest relative difference of a loss to the literal order, fp32, without dropout, '
              f'{args.equal} steps: {differences[hinge]:.1e}', flush=True)
    if args.json:
        with open(args.json, 'w') as file:
            json.dump({'hardware': hardware(device), 'rows': result, 'loss_difference': differences}, file, indent=1)


def add_restore(commands):
    parser = commands.add_parser('restore', help="noiseda-restore: seams, memory, and share of the network's speed")
    parser.add_argument('--weights', required=True, help='of a trained network')
    parser.add_argument('-opt', help='its option file, for weights that do not say what they are')
    parser.add_argument('--photo', required=True, help='photo to restore; larger ones are made of it')
    parser.add_argument('--tile', type=int, default=512, help='default: 512')
    parser.add_argument('--precision', choices=DTYPES, default='fp32')
    parser.add_argument('--overlaps', type=int, nargs='*', default=[16, 32, 64, 96], help='to measure the seams of')
    parser.add_argument('--megapixels', type=float, nargs='*', default=[1, 10, 100], help='to measure the memory of')
    parser.add_argument('--photos', type=int, default=4, help='of 12 megapixels, to measure the speed; 0: none')
    parser.set_defaults(run=run_restore)


def run_restore(args):
    print(f'{hardware(torch.device("cuda" if torch.cuda.is_available() else "cpu"))}; ', end='')
    options = {'option_file': args.opt, 'tile': args.tile, 'precision': args.precision}
    print(f'{args.weights}, tiles of {args.tile}, {args.precision}; torch {torch.__version__}', flush=True)
    with tempfile.TemporaryDirectory() as folder, \
            multiprocessing.get_context('spawn').Pool(1, maxtasksperchild=1) as pool:
        if args.overlaps:
            print('\n| tile | overlap | largest difference to one piece, of 255 | mean |\n|---|---|---|---|')
            photo = f'{folder}/one_megapixel.png'
            restore_benchmark.make_photo(args.photo, 1, photo)
            for row in restore_benchmark.seam_errors(args.weights, photo, args.tile, args.overlaps, args.opt):
                print('| {} | {} | {:.3f} | {:.4f} |'.format(*row))
        if args.megapixels:
            print('\n| megapixels | peak memory, MiB |\n|---|---|')
        for megapixels in args.megapixels:
            source, target = f'{folder}/source.jpg', f'{folder}/target.jpg'
            restore_benchmark.make_photo(args.photo, megapixels, source)
            memory = pool.apply(restore_benchmark.peak_memory, (args.weights, source, target, options))
            print(f'| {megapixels:g} | {memory / 2**20:,.0f} |', flush=True)
        if args.photos:
            sources = [f'{folder}/{number}.jpg' for number in range(args.photos)]
            for source in sources:
                restore_benchmark.make_photo(args.photo, 12, source)
            figures = restore_benchmark.throughput(args.weights, sources, f'{folder}/restored', options)
            print('\nfiles {:.2f} megapixels/s, bare network {:.2f}, share {:.0%}'.format(*figures))


def hardware(device):
    if device.type == 'cuda':
        return torch.cuda.get_device_name()
    return f'{platform.processor() or platform.machine()} CPU, {torch.get_num_threads()} threads'


if __name__ == '__main__':
    main()
