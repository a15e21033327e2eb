"""A matrix of trainings, variants x domains x seeds: trained, measured, and set against vanilla and oracle.

A study file is YAML::

    seeds: [0, 1, 2]
    options: ['datasets:train:gt_size=48']       # forced in every training
    metrics: [PSNR, SSIM]                        # of noiseda_model.evaluation.METRICS and NO_TRUTH
    domains:
      correlated:
        lq: datasets/correlated_test             # measured on
        gt: datasets/truth_test                  # may be missing where all metrics are of NO_TRUTH
        real: datasets/correlated_train          # any other key stands for $KEY in the options below
        noise: '{type: correlated_noise, sigma: 15}'
    variants:                                    # in the order of training
      start: {opt: options/train/vanilla.yml, options: ['train:total_iter=1000']}
      vanilla: {opt: options/train/vanilla.yml, start: start, options: ['train:total_iter=500']}
      oracle: {opt: options/train/vanilla.yml, start: start, options: ['datasets:train:degradation=$noise']}
      adapted: {opt: options/train/adapted.yml, start: start, options: ['datasets:train:dataroot_real=$real']}

A variant that says the same in all domains is trained once a seed and measured in each. One with a ``start`` begins
with that variant's last network of the same seed and domain, whose iterations and time count as its own. Variants are
compared by the first metric, if it is one that needs a truth: with those called vanilla and, for the share of the gap
closed, oracle.
"""
import argparse
import csv
import json
import re
import subprocess
import sys
from datetime import datetime
from glob import glob
from os import path as osp
from string import Template
from typing import NamedTuple

import torch
import yaml

from noiseda_basicsr import InputError, errors_in_one_line
from noiseda_basicsr.folders import hold
from noiseda_model.commands import make_folder, replacing, write_rows
from noiseda_model.evaluation import METRICS, NO_TRUTH
from noiseda_model.options import differences, read_option_file
from noiseda_model.protocols import RestoredStore, evaluate, means, open_source
from noiseda_model.restorer import Restorer
from noiseda_model.study_table import KNOWN, markdown, plot, summarise, write_table

TEXT, TEXTS, MAPPING = (str, None, 'a text'), (list, str, 'a list of texts'), (dict, None, 'a mapping')
NUMBERS = list, int, 'a list of whole numbers'
STUDY = {'seeds': NUMBERS, 'options': TEXTS, 'metrics': TEXTS, 'domains': MAPPING, 'variants': MAPPING}
DOMAIN = {'lq': TEXT, 'gt': TEXT}
VARIANT = {'opt': TEXT, 'options': TEXTS, 'start': TEXT}
LOADER = ('num_worker_per_gpu', 'persistent_workers', 'prefetch_mode', 'num_prefetch_queue', 'pin_memory')
TRAIN = 'from noiseda_model.cli import train; train()'
KEYS = ('variant', 'domain', 'seed')
STAMP = re.compile(r'^(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d),\d+ ', re.MULTILINE)


class Training(NamedTuple):
    """One training of the study; several cells of the matrix may share it."""
    name: str
    option_file: str
    forced: tuple  # KEY=VALUE
    start: 'Training | None'

    @property
    def weights(self):
        return f'experiments/{self.name}/models/net_g_latest.pth'


# ---------------------------------------------------------------------- planning


def read_study(file):
    """A study file, checked.

    Raises:
        InputError: Names the key and what is missing or unknown.
    """
    try:
        with open(file) as stream:
            study = yaml.safe_load(stream)
    except FileNotFoundError as error:
        raise InputError(f'{file}: no such study file.') from error
    except yaml.YAMLError as error:
        raise InputError(f'{file}: not valid YAML. {error}') from error
    _check(file, study, STUDY)
    if not all(study.get(key) for key in ('seeds', 'domains', 'variants')):
        raise InputError(f'{file}: a study needs seeds, domains and variants; noiseda_model/study.py shows one.')
    study = {'options': [], 'metrics': ['PSNR', 'SSIM'], **study}
    _refuse_unknown(f'{file}: metrics', study['metrics'], KNOWN)
    for name, domain in study['domains'].items():
        _check(f'{file}: domains:{name}', domain, DOMAIN, free=True)
        if 'lq' not in domain:
            raise InputError(f'{file}: domains:{name}:lq is missing, the photos to measure on.')
        if 'gt' not in domain and (need_truth := [metric for metric in study['metrics'] if metric in METRICS]):
            raise InputError(f'{file}: domains:{name}:gt is missing, the truth that {", ".join(need_truth)} needs. '
                             f'Give it, or metrics that need none: {", ".join(NO_TRUTH)}.')
    earlier = []
    for name, variant in study['variants'].items():
        _check(f'{file}: variants:{name}', variant, VARIANT)
        if 'opt' not in variant:
            raise InputError(f'{file}: variants:{name}:opt, the option file, is missing.')
        if variant.get('start', name) not in [name, *earlier] or variant.get('start') == name:
            raise InputError(f"{file}: variants:{name}:start is {variant['start']}; it must be one of those before it: "
                             f'{", ".join(earlier) or "there is none"}.')
        earlier.append(name)
    return study


def _check(where, given, shapes, free=False):
    """Refuse what is not a mapping, values of another shape, and other keys (unless those are ``free``)."""
    if not isinstance(given, dict):
        raise InputError(f'{where}: is {given!r}; it must be a mapping with {", ".join(shapes)}.')
    if not free:
        _refuse_unknown(where, given, shapes)
    for key, (kind, of, words) in shapes.items():
        value = given.get(key, kind())
        if not isinstance(value, kind) or (of and not all(isinstance(item, of) for item in value)):
            raise InputError(f'{where}: {key} is {value!r}; it must be {words}.')


def _refuse_unknown(where, given, known):
    if unknown := sorted(map(str, set(given) - set(known))):
        raise InputError(f'{where}: unknown {", ".join(unknown)}; known: {", ".join(known)}.')


def plan(study):
    """{(variant, domain, seed): Training} in the order of training."""
    cells = {}
    for seed in study['seeds']:
        for name, variant in study['variants'].items():
            forced = {domain: _forced(study, name, domain) for domain in study['domains']}
            starts = {domain: cells.get((variant.get('start'), domain, seed)) for domain in forced}
            is_one = len({*forced.values()}) == len({*starts.values()}) == 1
            for domain in forced:
                label = f'{name}_seed{seed}' if is_one else f'{name}_{domain}_seed{seed}'
                cells[name, domain, seed] = Training(label, variant['opt'], (*forced[domain], f'manual_seed={seed}'),
                                                     starts[domain])
    return cells


def _forced(study, name, domain):
    texts = [*study['options'], *study['variants'][name].get('options', [])]
    try:
        return tuple(Template(text).substitute(study['domains'][domain]) for text in texts)
    except KeyError as error:
        raise InputError(f'variants:{name}:options has ${error.args[0]}, and domains:{domain} no such key.') from error


# ---------------------------------------------------------------------- training and measuring


def train(training, processes=1):
    """Train through the usual launcher, in the current folder; a stopped training goes on, a finished one is kept.

    Beside experiments/NAME come NAME.txt, what it is trained with, and NAME.log.

    Raises:
        InputError: It failed; with what its log says.
    """
    if osp.isfile(training.weights):
        return
    command = [sys.executable, '-c', TRAIN, '-opt', training.option_file, '--auto_resume']
    if processes > 1:
        torchrun = ['-m', 'torch.distributed.run', '--standalone', f'--nproc_per_node={processes}', '--no-python']
        command = [sys.executable, *torchrun, *command, '--launcher', 'pytorch']
    command += ['--force_yml', *forced_options(training)]
    log = f'experiments/{training.name}.log'
    options = {'stderr': subprocess.STDOUT, 'start_new_session': True}  # else Ctrl-C would reach it, and then SIGTERM
    with open(log, 'w') as file, subprocess.Popen(command, stdout=file, **options) as process:
        try:
            status = process.wait()
        finally:
            process.terminate()  # it saves its state; nothing where it has ended
            process.wait()
    if status or not osp.isfile(training.weights):
        with open(log) as file:
            lines = file.readlines()
        end = [line for line in lines if line.startswith('error: ')][-1:] or lines[-5:]
        raise InputError(f'{training.name}: training ended with status {status}; {log} says:\n{"".join(end).strip()}')


def forced_options(training):
    """KEY=VALUE for --force_yml."""
    start = [f'path:pretrain_network_g={training.start.weights}'] if training.start else []
    return [f'name={training.name}', *training.forced, *start]


def keep_recipe(training, is_to_do):
    """Write down what a training is made with: its option file, what is forced, and what the files say.

    Raises:
        InputError: One of this name was made otherwise. (Of one made when the last was not written down, that is not
            known.)
    """
    folder, named = f'experiments/{training.name}', '\n'.join([training.option_file, *forced_options(training), ''])
    options = recipe(training)
    if not osp.isfile(f'{folder}.txt') or (is_to_do and not osp.isdir(folder)):
        with replacing(f'{folder}.txt') as file:
            file.write(named + json.dumps(options, indent=1))
        return
    with open(f'{folder}.txt') as file:
        kept = file.read()
    if kept == named:
        return
    before = json.loads(kept.removeprefix(named)) if kept.startswith(named + '{') else None
    if before != options:
        change = next(differences(before, options))[:200] if before else f'see {folder}.txt'
        raise InputError(f'{folder} was trained with other options ({change}). Put them back; or start the study in '
                         'another working folder (--out is for the results only); or remove it and its rows of '
                         'results.csv, to train it again.')


def recipe(training):
    """What a training's option file says and, where it has a start, the same of that and what is forced there."""
    options, start = what_counts(training.option_file), training.start
    return {**options, 'start': {**recipe(start), 'forced': forced_options(start)}} if start else options


def what_counts(option_file):
    """What an option file says, less what does not change the weights, as JSON has it."""
    options = {key: value for key, value in read_option_file(option_file).items() if key not in ('logger', 'val')}
    train_set = (options.get('datasets') or {}).get('train') or {}
    train_set = {key: value for key, value in train_set.items() if key not in LOADER}
    return json.loads(json.dumps({**options, 'datasets': {'train': train_set}}, default=str))


def cost(training):
    """(iterations, seconds) of a finished training and all it started from, read from its logs."""
    iterations, seconds = cost(training.start) if training.start else (0, 0.0)
    for log in sorted(glob(f'experiments/{training.name}/train_*.log')):  # one each time it was started
        with open(log) as file:
            text = file.read()
        stamps = [datetime.strptime(stamp, '%Y-%m-%d %H:%M:%S') for stamp in STAMP.findall(text)]
        seconds += (stamps[-1] - stamps[0]).total_seconds()
    return iterations + int(re.findall(r'total_iter: (\d+)', text)[-1]), seconds


def measure(training, domain, metrics):
    """{metric: mean over the domain's photos} of a trained network."""
    restored = RestoredStore(open_source(domain['lq'], 'lq'), Restorer(training.weights))
    truth = open_source(domain['gt'], 'gt') if 'gt' in domain else None
    return means(evaluate(restored, truth, {name: KNOWN[name] for name in metrics}))


def run_study(study, out, processes=1, tell=print):
    """Train and measure what OUT/results.csv does not hold yet; returns its rows, see :func:`rows_of`."""
    make_folder(out)
    with hold(out):
        return _run_study(study, osp.join(out, 'results.csv'), processes, tell)


def _run_study(study, path, processes, tell):
    rows = read_rows(path)
    done = rows_of(study, rows)
    left = {cell: training for cell, training in plan(study).items() if cell not in done}
    for name in dict.fromkeys(domain for _, domain, _ in left):  # a mistake would be found after the training
        for key in DOMAIN:
            if key in study['domains'][name]:
                open_source(study['domains'][name][key], f'domains:{name}:{key}')
    for training in left.values():
        read_option_file(training.option_file)
    for cell, training in plan(study).items():
        if cell in left or osp.isfile(training.option_file):
            keep_recipe(training, cell in left)
    for cell, training in left.items():
        train(training, processes)
        domain = study['domains'][cell[1]]
        figures = measure(training, domain, study['metrics'])
        torch.cuda.empty_cache()  # the next training is another process
        iterations, seconds = cost(training)
        key, photos = tuple(map(str, cell)), photos_of(domain)
        before = rows.get(key, {})  # it may hold other metrics
        rows[key] = row = {**(before if photos.items() <= before.items() else {}), **dict(zip(KEYS, key, strict=True)),
                           **photos, 'iterations': str(iterations), 'seconds': f'{seconds:.0f}',
                           **{name: f'{value:.4f}' for name, value in figures.items()}}
        write_rows(path, rows.values())
        tell('  '.join(f'{key} {value}' for key, value in row.items()))
    return rows_of(study, rows)


def read_rows(path):
    """{(variant, domain, seed): row}, all of it text."""
    if not osp.isfile(path):
        return {}
    with open(path, newline='') as file:
        return {tuple(row[key] for key in KEYS): row for row in csv.DictReader(file)}


def photos_of(domain):
    """What a row is measured on, as it stands there."""
    return {'lq': domain['lq'], 'gt': domain.get('gt', '')}


def rows_of(study, rows):
    """Those :func:`read_rows` that are of a study and up to date: {cell of its plan: row}.

    A row has all the metrics, and is of the same photos. (Of an old row, without ``lq``, that is not known.)
    """
    known = {}
    for cell in plan(study):
        row, photos = rows.get(tuple(map(str, cell)), {}), photos_of(study['domains'][cell[1]])
        if all(row.get(metric) for metric in study['metrics']) and (not row.get('lq') or photos.items() <= row.items()):
            known[cell] = row
    return known


# ---------------------------------------------------------------------- the command


def main(arguments=None):
    """The command line."""
    parser = argparse.ArgumentParser(
        prog='study.py', description='Train and measure a matrix of variants, domains and seeds; what is done is kept.',
        epilog='experiments/ appears in the current folder. noiseda_model/study.py explains the study file.')
    parser.add_argument('study', metavar='STUDY.yml')
    parser.add_argument('--out', required=True, help='folder for results.csv, table.csv, table.md and study.svg')
    parser.add_argument('--processes', type=int, default=1, help='a training runs on so many (torchrun; default: 1)')
    parser.add_argument('--table', action='store_true', help='train nothing: the tables of what there is')
    args = parser.parse_args(arguments)
    with errors_in_one_line():
        run(args)


def run(args):
    """:func:`main` on parsed arguments."""
    study = read_study(args.study)
    results = osp.join(args.out, 'results.csv')
    done = rows_of(study, read_rows(results)) if args.table else run_study(study, args.out, args.processes)
    rows = list(done.values())
    if not rows:
        raise InputError(f'--table: {results} holds nothing of this study yet, or not all its metrics.')
    table = summarise(rows, study['metrics'])
    write_table(osp.join(args.out, 'table.csv'), table, study['metrics'])
    text = markdown(table, study['metrics'])
    with replacing(osp.join(args.out, 'table.md')) as file:
        file.write(text + '\n')
    plot(osp.join(args.out, 'study.svg'), rows, study['metrics'][0])
    print(f'\n{text}\n\nAll of it: {args.out}/')
