"""Measure what this machine does.

    python scripts/benchmark.py step                  # a joint step at the paper's networks, option by option
    python scripts/benchmark.py step --hinge open --batch 4
"""
import argparse
import json
import multiprocessing
import platform

import torch

from noiseda_model import benchmark


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, metavar='step')
    add_step(commands.add_parser('step', help='samples/s, memory and share of the convolution peak of a joint step'))
    args = parser.parse_args()
    args.command(args)


def add_step(parser):
    parser.set_defaults(command=step)
    parser.add_argument('-opt', default='options/train/train_sidd.yml', help='whose networks (default: %(default)s)')
    parser.add_argument('--batch', type=int, help="samples a step (default: 2; on a GPU the option file's)")
    parser.add_argument('--size', type=int, help="side of a patch (default: the option file's)")
    parser.add_argument('--hinge', choices=['closed', 'open'], default='closed', help='state of the hinge of Eq. 3')
    parser.add_argument('--rounds', type=int, default=7, help='steps of each variant (default: 7)')
    parser.add_argument('--only', nargs='+', metavar='VARIANT', help='names or beginnings of the variants to run')
    parser.add_argument('--equal', type=int, default=20, metavar='STEPS', help='steps to compare losses over; 0: none')
    parser.add_argument('--json', help='write the figures to this file too')


def step(args):
    opt = benchmark.options(args.opt, args.batch, args.size, args.hinge)
    device = torch.device('cuda' if opt['num_gpu'] else 'cpu')
    samples, size = (opt['datasets']['train'][key] for key in ('batch_size_per_gpu', 'gt_size'))
    print(f'{hardware(device)}; torch {torch.__version__}; {args.opt}, batch {samples} of {size}x{size}, '
          f'hinge {args.hinge}', flush=True)
    table = benchmark.variants(device)
    names = [name for name in table if not args.only or any(name.startswith(start) for start in args.only)]
    rows = benchmark.compare(opt, names, args.rounds)
    with multiprocessing.get_context('spawn').Pool(1, maxtasksperchild=1) as pool:
        for row in rows:
            row['memory'] = pool.apply(benchmark.peak_memory, (opt, table[row['name']]))
    print(benchmark.markdown_table(rows, samples), flush=True)
    result = {'hardware': hardware(device), 'hinge': args.hinge, 'rows': rows}
    if args.equal:
        result['loss_difference'] = benchmark.loss_difference(opt, {}, args.equal)
        print(f'largest relative difference of a loss to the literal order, fp32, without dropout, '
              f'{args.equal} steps: {result["loss_difference"]:.1e}')
    if args.json:
        with open(args.json, 'w') as file:
            json.dump(result, file, indent=1)


def hardware(device):
    if device.type == 'cuda':
        return torch.cuda.get_device_name()
    return f'{platform.processor() or platform.machine()} CPU, {torch.get_num_threads()} threads'


if __name__ == '__main__':
    main()
