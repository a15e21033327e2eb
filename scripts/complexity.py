"""What restoration networks cost, beside the paper's figures: a Markdown table, and a CSV.

    python scripts/complexity.py                                    # the paper's networks
    python scripts/complexity.py NAFNet-32 options/train/train_polyu.yml --size 256 --csv costs.csv

A network is named by an option file (its network_g) or as in network_g:type.
"""
import argparse
import csv

import torch

from noiseda_arch.presets import PRESETS
from noiseda_basicsr import errors_in_one_line
from noiseda_basicsr.fixes import apply_fixes
from noiseda_model.complexity import build, markdown, measure, rows


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('networks', nargs='*', default=list(PRESETS), help='option files, or names')
    parser.add_argument('--size', type=int, default=128, help='side of the image (default: 128)')
    parser.add_argument('--csv', help='file to write the table to')
    args = parser.parse_args()
    apply_fixes()  # clear messages for unknown names
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    with errors_in_one_line():
        table = rows({name: measure(build(name), args.size, device) for name in args.networks}, args.size)
    where = torch.cuda.get_device_name() if device == 'cuda' else f'CPU, {torch.get_num_threads()} threads'
    print(f'{markdown(table)}\n\nPyTorch {torch.__version__}, {where}.')
    if args.csv:
        with open(args.csv, 'w', newline='') as file:
            csv.writer(file).writerows(table)


if __name__ == '__main__':
    main()
