"""What the diffusion loss tells the restoration network, where the truth is known; the command noiseda-diagnose.

Measured at the saved iterations of a run, on photos with truth that take the place of the real ones, with both networks
in evaluation mode: whether L_dif pulls a restored image towards its truth (alignment), whether the diffusion network
looks at its conditions (as the monitor does), and whether the hinge of Eq. 3 is open. Nothing is trained.
"""
import argparse
import json
import logging
import os
import re
from os import path as osp
from types import SimpleNamespace

import numpy as np
import torch
from basicsr.data import build_dataset
from basicsr.utils import get_root_logger
from tqdm import tqdm

from noiseda_basicsr import InputError, errors_in_one_line
from noiseda_basicsr.checkpoint import load_checkpoint
from noiseda_data.store import to_float
from noiseda_model.commands import make_folder, markdown_table, replacing, write_rows
from noiseda_model.condition_study import mean_and_error
from noiseda_model.diffusion import draw
from noiseda_model.monitor import blurred
from noiseda_model.noiseda_model import NoiseDAModel
from noiseda_model.options import check_registered, read_option_file
from noiseda_model.selection import read_photos, read_truth

BANDS = ((1, 100), (101, 300), (301, 999))  # of t
LOOKS = 4  # draws a probe for the sensitivity, which is a mean over all probes
NETWORKS = ('g', 'diffusion')
SHOWN = {  # column of the table -> its format
    'align_real': '+.3f', 'align_syn': '+.3f', 'smooth_real': '+.2f', 'smooth_syn': '+.2f', 'narrow_real': '.2f',
    'narrow_syn': '.2f', 'repeat_real': '.2f', 'repeat_syn': '.2f', 'gap': '+.3f', 'open': '.0%', 'psnr': '.2f',
    'smooth_truth': '+.2f', 'narrow_truth': '.2f', 'real_blur': '+.1%', 'syn_blur': '+.1%'}

# ---------------------------------------------------------------------- what is measured


def cosine(a, b):
    """Of each sample of two batches, (B,); NaN where one of the two is zero: it has no direction."""
    a, b = a.flatten(1).double(), b.flatten(1).double()
    return (a * b).sum(dim=1) / (a.norm(dim=1) * b.norm(dim=1))


def narrowness(images):
    """Share of the power of each that its strongest 2 % of frequencies hold, (B,): 1 for stripes, 0.05 for white noise.

    A gradient of photos is broad. A narrow one is a pattern of its own, which the two networks may agree upon.
    """
    power = torch.fft.fft2(images.double()).abs().square().sum(dim=1).flatten(1)
    strongest = power.topk(max(1, power.shape[1] // 50), dim=1).values
    return strongest.sum(dim=1) / power.sum(dim=1)


def descent(model, streams, restored, timesteps, draws):
    """-dL_dif / dG at the restored images, and what the loss was.

    Args:
        model (NoiseDAModel): Its options say what L_dif is.
        streams (dict): ``lq``, ``gt``, ``real`` (and ``ref``), (B, 3, H, W); the hinge is open, or not, for all B.
        restored (dict): ``syn`` and/or ``real``, the conditions.
        timesteps (tuple[int]): t is drawn from here.
        draws (int): 2 or more.

    Returns:
        tuple[dict, list[dict]]: {condition: (2, B, 3, H, W)}, the means over the even draws and over the odd ones; the
        ``l_noise`` and ``gap`` of each draw.
    """
    halves = {name: torch.zeros(2, *image.shape, device=image.device) for name, image in restored.items()}
    losses = []
    for number in range(draws):
        part = SimpleNamespace(**streams, **draw(streams['gt'], model.levels, timesteps)._asdict())
        images = {name: image.detach().requires_grad_() for name, image in restored.items()}
        model.log = {}
        loss = model.adaptation_loss(part, images)
        slopes = torch.autograd.grad(loss, list(images.values()), materialize_grads=True)
        for half, slope in zip(halves.values(), slopes, strict=True):
            half[number % 2] -= slope / ((draws + 1 - number % 2) // 2)
        losses.append({name: value.item() for name, value in model.log.items()})
    return halves, losses


def align(model, batches, timesteps, draws):
    """Alignment, and the state of the hinge, with t drawn from ``timesteps``.

    The gradient of one draw is mostly noise, so the cosine is that of the mean over ``draws``. ``repeat`` says how far
    that mean is determined: the cosine between its two halves.

    Args:
        batches (list[dict]): Streams as for :func:`descent`, and ``truth`` of ``real``.

    Returns:
        dict[str, float]: ``align_real``: cosine between the descent of L_dif at G(x^r) and truth - G(x^r), mean over
        probes, NaN without a gradient; ``align_real_error``, its standard error; ``smooth_real``, the cosine with
        blurred G(x^r) - G(x^r); ``narrow_real``, its :func:`narrowness`; ``repeat_real``; the same of ``syn``, whose
        truth is gt; ``l_noise``, ``gap`` and ``open``, the share of draws with an open hinge.
    """
    kinds, losses = ('align', 'smooth', 'narrow', 'repeat'), []
    found = {f'{kind}_{name}': [] for name in ('real', 'syn') for kind in kinds}
    for batch in batches:
        streams = {key: value for key, value in batch.items() if key != 'truth'}
        with torch.no_grad():
            images = dict(zip(('syn', 'real'), model.restore_batch(SimpleNamespace(**streams)), strict=True))
        restored = {name: images[name] for name in model.diffusion_opt['conditions']}
        halves, said = descent(model, streams, restored, timesteps, draws)
        losses += said
        for name, (even, odd) in halves.items():
            image, truth = restored[name], batch['truth' if name == 'real' else 'gt']
            measured = (cosine(even + odd, truth - image), cosine(even + odd, blurred(image) - image),
                        narrowness(even + odd), cosine(even, odd))
            for kind, values in zip(kinds, measured, strict=True):
                found[f'{kind}_{name}'].append(values)
    row = {}
    for name, values in found.items():
        mean, error = mean_and_error(torch.cat(values).cpu().numpy()) if values else (np.nan, np.nan)
        row |= {name: float(mean)} | ({f'{name}_error': float(error)} if name.startswith('align') else {})
    gaps = [said['gap'] for said in losses if 'gap' in said]
    return row | {'l_noise': float(np.mean([said['l_noise'] for said in losses])),
                  'gap': float(np.mean(gaps)) if gaps else np.nan,
                  'open': float(np.mean(np.array(gaps) > 0)) if gaps else np.nan}


@torch.no_grad()
def look(model, batches):
    """``psnr`` of the restored photos (clipped), what truth - G(x^r) is like (``smooth_truth``, ``narrow_truth``, as in
    :func:`align`), means over probes; and the monitor's sensitivities over all probes.
    """
    scores, smooth, narrow = [], [], []
    for batch in batches:
        image = model.forward(model.net_g, batch['real'])
        scores.append(-10 * (image.clamp(0, 1) - batch['truth']).square().mean(dim=(1, 2, 3)).log10())
        smooth.append(cosine(batch['truth'] - image, blurred(image) - image))
        narrow.append(narrowness(batch['truth'] - image))
    found = {'psnr': scores, 'smooth_truth': smooth, 'narrow_truth': narrow}
    probes = {key: torch.cat([batch[key] for batch in batches]).repeat(LOOKS, 1, 1, 1) for key in batches[0]}
    probes.pop('truth')
    drawn = draw(probes['gt'], model.levels, model.diffusion_opt['timesteps'])
    model.monitor.batch = {**probes, **drawn._asdict()}
    return {name: torch.cat(values).mean().item() for name, values in found.items()} | model.monitor.look(model)


def diagnose(model, batches, draws, seed=0):
    """:func:`align` with t as trained and in the :data:`BANDS` within, a row each; the first has :func:`look`, too.

    All iterations and bands begin with the same random state, ``seed``.
    """
    for net in (model.net_g, model.net_diffusion):
        net.eval()
    low, high = model.diffusion_opt['timesteps']
    cuts = [(max(low, first), min(high, last)) for first, last in BANDS]
    rows = []
    for timesteps in dict.fromkeys([(low, high), *(cut for cut in cuts if cut[0] <= cut[1])]):
        torch.manual_seed(seed)
        row = {'timesteps': f'{timesteps[0]}-{timesteps[1]}', **align(model, batches, timesteps, draws)}
        rows.append(row if rows else row | look(model, batches))
    return rows


# ---------------------------------------------------------------------- what it is measured on


def saved_iterations(folder):
    """Iterations of experiments/NAME with both networks and the training state, ascending.

    Raises:
        InputError: There is none.
    """
    states = osp.join(folder, 'training_states')
    names = os.listdir(states) if osp.isdir(states) else []
    numbers = sorted(int(name[:-6]) for name in names if re.fullmatch(r'\d+\.state', name))
    numbers = [number for number in numbers if all(osp.isfile(_weights(folder, net, number)) for net in NETWORKS)]
    if not numbers:
        raise InputError(f'{folder}: holds no iteration with net_g_*.pth, net_diffusion_*.pth and a training state. '
                         'Give experiments/NAME of an adapted training; save_checkpoint_freq says when it saves.')
    return numbers


def _weights(folder, net, iteration):
    return osp.join(folder, 'models', f'net_{net}_{iteration}.pth')


def load_model(folder, iteration, option_file=None):
    """The model of a saved iteration, with the weights that were trained (not the averaged ones).

    Its options are those noted beside the weights and in the training state; ``option_file`` for networks not noted.

    Raises:
        InputError: A file is broken, or a network is not noted.
    """
    options = json.loads(load_checkpoint(osp.join(folder, 'training_states', f'{iteration}.state'))['options'])
    options['datasets'] = {'train': options['datasets']['train']}  # nothing is validated
    engine = options['train'].get('engine') or {}  # of it what saves memory: fp16 needs a scaler, a look no compiling
    options['train']['engine'] = {'activation_checkpointing': engine.get('activation_checkpointing', [])}
    options['datasets']['train']['batch_size_per_gpu'] //= engine.get('accumulate', 1)
    files = {net: _weights(folder, net, iteration) for net in NETWORKS}
    named = read_option_file(option_file) if option_file else {}
    for net, file in files.items():
        key = f'network_{net}'
        options[key] = load_checkpoint(file).get(key) or named.get(key)
        if not options[key]:
            raise InputError(f'{file}: does not say what network it is of; give the option file with -opt.')
        check_registered(options[key], f'{file} is of')
    paths = {f'pretrain_network_{net}': file for net, file in files.items()}
    return NoiseDAModel({**options, 'name': folder, 'is_train': True, 'dist': False, 'rank': 0, 'world_size': 1,
                         'num_gpu': min(1, torch.cuda.device_count()), 'path': {**paths, 'param_key_g': 'params'}})


def read_probes(model, lq_root, gt_root, size=None, seed=0):
    """Batches of the size trained with: synthetic pairs as in training, and centre crops of real photos with truth.

    Args:
        model (NoiseDAModel): ``datasets:train`` of its options says how pairs are made.
        lq_root, gt_root (str): Folders or LMDBs with equal names.
        size (int): Side of a probe. Default: of a training patch.

    Raises:
        InputError: A photo is too small, or its truth is missing; there is one photo only.
    """
    options = model.opt['datasets']['train']
    size = size or options['gt_size']
    photos = read_photos(lq_root, '--lq', size)
    truth = read_truth(gt_root, size, photos)
    if small := [name for name, photo in photos.items() if min(photo.shape[:2]) < size]:
        raise InputError(f'--lq {lq_root}: {small[0]} is smaller than a probe of {size}x{size}; lower --size.')
    if len(photos) < 2:
        raise InputError(f'--lq {lq_root}: holds one photo; the standard error needs two or more.')
    torch.manual_seed(seed)
    dataset = build_dataset({**options, 'gt_size': size, 'phase': 'train'})
    items = []
    for number, pair in enumerate(zip(photos.values(), truth, strict=True)):
        real = {key: torch.from_numpy(to_float(image.transpose(2, 0, 1).copy()))
                for key, image in zip(('real', 'truth'), pair, strict=True)}
        items.append({**dataset[number % len(dataset)], **real})
    count = options['batch_size_per_gpu']
    groups = [items[first:first + count] for first in range(0, len(items), count)]
    return [{key: torch.stack([item[key] for item in group]).to(model.device) for key in group[0]} for group in groups]


# ---------------------------------------------------------------------- tables


def markdown(rows):
    """The most of it for the eye."""
    return markdown_table(['run', 'iteration', 'timesteps', *SHOWN], [
        [row['run'], str(row['iteration']), row['timesteps'], *(_cell(row, name) for name in SHOWN)] for row in rows])


def _cell(row, name):
    if np.isnan(row.get(name, np.nan)):
        return ''
    error = f" ± {row[f'{name}_error']:.3f}" if f'{name}_error' in row else ''
    return format(row[name], SHOWN[name]) + error


def plot(path, rows):
    """Over the iterations, a line for each run, t as trained: both alignments, the sensitivity to detail, PSNR."""
    import matplotlib
    matplotlib.use('Agg')
    matplotlib.rcParams['svg.fonttype'] = 'none'
    from matplotlib import pyplot
    rows = [row for row in rows if 'psnr' in row]
    panels = {'align_real': 'alignment, real', 'align_syn': 'alignment, synthetic', 'real_blur': 'rise by blur, real',
              'syn_blur': 'rise by blur, synthetic', 'psnr': 'PSNR of the probes'}
    figure, axes = pyplot.subplots(1, len(panels), figsize=(3.2 * len(panels), 3.4), layout='constrained')
    for run in dict.fromkeys(row['run'] for row in rows):
        here = [row for row in rows if row['run'] == run]
        for axis, name in zip(axes, panels, strict=True):
            axis.errorbar([row['iteration'] for row in here], [row.get(name, np.nan) for row in here],
                          [row.get(f'{name}_error', 0) for row in here], label=run, marker='.', capsize=2)
    for axis, (name, title) in zip(axes, panels.items(), strict=True):
        axis.set(title=title, xlabel='iteration')
        if name != 'psnr':
            axis.axhline(0, linewidth=0.8, color='grey')
    figure.legend(*axes[0].get_legend_handles_labels(), loc='outside lower center', ncols=5)
    figure.savefig(path, metadata={'Date': None} if path.endswith('.svg') else None)
    pyplot.close(figure)


# ---------------------------------------------------------------------- the command


def main(arguments=None):
    """The command line."""
    parser = argparse.ArgumentParser(
        prog='noiseda-diagnose', description='What the diffusion loss told the restoration network at each saved '
        'iteration of adapted trainings, measured on photos with truth.')
    parser.add_argument('runs', nargs='+', metavar='RUN', help='experiments/NAME')
    parser.add_argument('--lq', required=True, help='folder or LMDB of degraded photos of the target domain')
    parser.add_argument('--gt', required=True, help='their truth, of equal names')
    parser.add_argument('--out', required=True, help='folder for diagnosis.csv, .md and .svg')
    parser.add_argument('-opt', help='option file of the networks, for weights that do not name their own')
    parser.add_argument('--draws', type=int, default=16, help='of t and noise, averaged (default: 16)')
    parser.add_argument('--size', type=int, help='side of the centre crops (default: that of a training patch)')
    parser.add_argument('--seed', type=int, default=0)
    args = parser.parse_args(arguments)
    with errors_in_one_line():
        run(args)


def run(args):
    """:func:`main` on parsed arguments."""
    if args.draws < 2:
        raise InputError(f'--draws {args.draws}: must be 2 or more, for two halves to compare.')
    make_folder(args.out)
    get_root_logger(log_level=logging.WARNING)
    found = {folder: saved_iterations(folder) for folder in args.runs}
    rows = []
    for folder, iterations in found.items():
        name, batches = osp.normpath(folder).removeprefix('experiments/'), None
        for iteration in tqdm(iterations, unit='iteration', desc=name):
            model = load_model(folder, iteration, args.opt)
            batches = batches or read_probes(model, args.lq, args.gt, args.size, args.seed)
            rows += [{'run': name, 'iteration': iteration, **row}
                     for row in diagnose(model, batches, args.draws, args.seed)]
    write_rows(osp.join(args.out, 'diagnosis.csv'), rows)
    text = markdown(rows)
    with replacing(osp.join(args.out, 'diagnosis.md')) as file:
        file.write(text + '\n')
    plot(osp.join(args.out, 'diagnosis.svg'), rows)
    probes = sum(len(batch['truth']) for batch in batches)
    print(f'{text}\n\nMean over {probes} probes ± standard error, {args.draws} draws. All of it: {args.out}/')
