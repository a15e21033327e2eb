"""What a joint step costs: the literal order of the published method, and each of the engine's options added in turn.

All variants share networks' initial weights, batch and draws, and take turns, so that a busy machine slows all alike.
"""
import copy
import gc
import itertools
import statistics
import time
from collections import OrderedDict

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from noiseda_arch.conditional_unet_arch import Dropout
from noiseda_model.diffusion import diffuse, shuffle_channels, swap_residuals
from noiseda_model.noiseda_model import NoiseDAModel
from noiseda_model.options import read_option_file

LITERAL = 'literal order'
MARGINS = {'closed': -1.0, 'open': 1.0}  # delta of Eq. 3 that holds the hinge so


class LiteralModel(NoiseDAModel):
    """The published order: four passes, the hinge's branch always computed backward, plain Adam, plain dropout."""

    def __init__(self, opt):
        opt = copy.deepcopy(opt)
        for block in ('optim_g', 'optim_diffusion'):
            opt['train'][block]['fused'] = False
        super().__init__(opt)
        for module in self.net_diffusion.modules():
            if isinstance(module, Dropout):
                module.forward = nn.Dropout(module.p).forward

    def optimize_parameters(self, current_iter):
        self.seed(current_iter)
        part, = self.split_batch(**self.draw()._asdict())
        self.seed(current_iter, 0)
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        restored_syn, restored_real = self.net_g(part.lq), self.net_g(part.real)
        x_t = diffuse(part.gt, part.noise, part.alpha_bar)
        negatives = swap_residuals(part.lq, restored_syn, part.real, restored_real)
        positive = shuffle_channels(restored_syn, restored_real, part.swap)
        negative = shuffle_channels(*negatives, part.swap_negative)
        l_noise, distance = (
            F.mse_loss(self.net_diffusion(torch.cat([x_t, condition], dim=1), part.alpha_bar), part.noise)
            for condition in (positive, negative))
        l_con = (l_noise - distance + self.diffusion_opt['margin']).clamp(min=0)
        l_pix = self.cri_pix(restored_syn, part.gt)
        (l_pix + self.diffusion_weight(current_iter) * (l_noise + l_con) / 2).backward()
        self.log = OrderedDict(l_pix=l_pix.item(), l_noise=l_noise.item(), l_con=l_con.item())
        for optimizer in self.optimizers:
            optimizer.step()
        self.model_ema(min(self.ema_decay, (1 + current_iter) / (10 + current_iter)))


def variants(device):
    """Name -> train:engine; each with everything above it."""
    table = {
        LITERAL: None,
        'fp32': {},  # one pass of G, no way back through a closed hinge, fused Adam, fast dropout
        'bf16': {'precision': 'bf16'},
        'bf16, channels last': {'precision': 'bf16', 'channels_last': True},
        'bf16, activation checkpointing': {'precision': 'bf16', 'activation_checkpointing': ['g', 'diffusion']},
        'bf16, two parts': {'precision': 'bf16', 'accumulate': 2},
    }
    if device.type == 'cuda':
        table['bf16, channels last, compiled'] = {**table['bf16, channels last'], 'compile': ['g', 'diffusion']}
    return table


def build(opt, engine):
    """A model of one variant, the same weights in each."""
    opt = copy.deepcopy(opt)
    torch.manual_seed(0)
    if engine is None:
        return LiteralModel(opt)
    opt['train']['engine'] = engine
    return NoiseDAModel(opt)


def batch(opt, device):
    """Random images: what they show does not change the cost."""
    generator = torch.Generator().manual_seed(1)
    train_set = opt['datasets']['train']
    size = (train_set['batch_size_per_gpu'], 3, train_set['gt_size'], train_set['gt_size'])
    images = {key: torch.rand(size, generator=generator) for key in ('gt', 'lq', 'real')}
    return {key: value.to(device) for key, value in images.items()}


def timed(model, data, current_iter):
    """Seconds of one step."""
    model.feed_data(data)
    _synchronize(model.device)
    start = time.perf_counter()
    model.optimize_parameters(current_iter)
    _synchronize(model.device)
    return time.perf_counter() - start


def _synchronize(device):
    if device.type == 'cuda':
        torch.cuda.synchronize()


def count_flops(model, data):
    """Floating point operations one step executes (a multiply-add is two), counted on one sample of each part.

    Not compiled, so whichever algorithms cuDNN would have to look for are not worth it.
    """
    samples, parts = len(data['gt']), model.engine['accumulate']
    model.feed_data({key: images[:parts] for key, images in data.items()})
    with FlopCounterMode(display=False) as counter, torch.compiler.set_stance('force_eager'), \
            torch.backends.cudnn.flags(enabled=True, benchmark=False):
        model.optimize_parameters(1)
    return counter.get_total_flops() * samples // parts


class ConvolutionPeak:
    """The machine's fastest rate for 3x3 convolutions, forward and backward, of the size the networks have.

    On a GPU in both memory layouts, and several at a time, so that starting them does not count.
    """

    SHAPES = ((64, 128), (128, 64), (256, 32), (512, 16))  # channels, side

    def __init__(self, device, dtype, samples):
        self.cases, self.at_a_time = [], 10 if device.type == 'cuda' else 1
        layouts = [torch.contiguous_format] + [torch.channels_last] * (device.type == 'cuda')
        for (channels, side), layout in itertools.product(self.SHAPES, layouts):
            conv = nn.Conv2d(channels, channels, 3, padding=1, device=device, dtype=dtype).to(memory_format=layout)
            image = torch.randn(samples, channels, side, side, device=device, dtype=dtype)
            image = image.to(memory_format=layout).requires_grad_()
            self.cases.append((conv, image, torch.randn_like(image), 3 * 2 * 9 * channels**2 * side**2 * samples))

    def measure(self):
        """FLOP/s of the fastest shape in one round."""
        rates = []
        for conv, image, gradient, flops in self.cases:
            seconds = []
            for _ in range(3):
                _synchronize(image.device)
                start = time.perf_counter()
                for _ in range(self.at_a_time):
                    conv(image).backward(gradient)
                _synchronize(image.device)
                seconds.append((time.perf_counter() - start) / self.at_a_time)
            rates.append(flops / min(seconds))
        return max(rates)


def peak_memory(opt, engine, hinge='closed', steps=2):
    """Peak memory in bytes, on a CPU (Linux): what the process held at most, less what it held before.

    Call it in a fresh process.
    """
    before = highest_resident()
    model = build(opt, engine)
    model.diffusion_opt['margin'], model.hinge_was_open = MARGINS[hinge], hinge == 'open'
    data = batch(opt, model.device)
    for n in range(1, steps + 1):
        timed(model, data, n)
    return highest_resident() - before


def highest_resident():
    """Not getrusage's, which a child inherits from its parent."""
    with open('/proc/self/status') as file:
        return 1024 * next(int(line.split()[1]) for line in file if line.startswith('VmHWM'))


def compare(opt, names, rounds, hinges=('closed',), tell=print):
    """Steps of several variants in turn, with the hinge of Eq. 3 held closed or open.

    ``tell`` is called with the duration of each variant's first two steps, in which it compiles and chooses algorithms.

    Yields:
        tuple: State of the hinge, and a list of dicts, one a variant: ``name``, ``seconds`` (median step), ``speedup``
        (median over rounds of the literal variant's time over this one's in the same round), ``flops``,
        ``share_of_peak`` (of the convolution peak measured in the same rounds, in the variant's number format),
        ``memory`` (peak of what torch allocated for it, in bytes; on a CPU None).
    """
    device = torch.device('cuda' if opt['num_gpu'] else 'cpu')
    torch.backends.cudnn.benchmark = True  # as the launcher does
    table = {name: engine for name, engine in variants(device).items() if name in names or name == LITERAL}
    data, models, own = batch(opt, device), {}, {}
    peaks = {dtype: ConvolutionPeak(device, dtype, len(data['gt'])) for dtype in (torch.float32, torch.bfloat16)}
    for name, engine in table.items():
        before = _allocated(device)
        models[name] = build(opt, engine)
        tell(f'{name}: first two steps {sum(timed(models[name], data, n) for n in (1, 2)):.1f} s')
        own[name] = _allocated(device) - before
    for hinge in hinges:
        yield hinge, _rounds(table, models, own, data, peaks, rounds, hinge)


def _allocated(device):
    return torch.cuda.memory_allocated() if device.type == 'cuda' else 0


def _rounds(table, models, own, data, peaks, rounds, hinge):
    flops, memory = {}, {}
    for name, model in models.items():
        model.diffusion_opt['margin'] = MARGINS[hinge]
        timed(model, data, 1)  # a step expects the hinge of the one before
        memory[name] = _step_memory(model, data, own[name])
        flops[name] = count_flops(model, data)
    seconds = {name: [] for name in models}
    rates = {dtype: [] for dtype in peaks}
    for number in range(rounds):
        for name, model in models.items():
            seconds[name].append(timed(model, data, 2 + number))
            gc.collect()
        for dtype, peak in peaks.items():
            rates[dtype].append(peak.measure())
    rows = []
    for name, engine in table.items():
        dtype = torch.bfloat16 if engine and engine.get('precision') == 'bf16' else torch.float32
        rows.append({
            'name': name, 'seconds': statistics.median(seconds[name]), 'flops': flops[name],
            'speedup': statistics.median(a / b for a, b in zip(seconds[LITERAL], seconds[name], strict=True)),
            'share_of_peak': statistics.median(
                flops[name] / t / rate for t, rate in zip(seconds[name], rates[dtype], strict=True)),
            'peak': max(rates[dtype]), 'memory': memory[name],
        })
    return rows


def _step_memory(model, data, own):
    """On a GPU the most memory a step holds, with the model's ``own`` and without that of the other models."""
    if model.device.type != 'cuda':
        return None
    others = _allocated(model.device) - own
    torch.cuda.reset_peak_memory_stats()
    timed(model, data, 1)
    return torch.cuda.max_memory_allocated() - others


def loss_difference(opt, engine, steps=20, hinge='closed'):
    """Largest relative difference of any loss between the literal order and a variant over some steps.

    Without dropout, whose draws differ between the two.
    """
    opt = copy.deepcopy(opt)
    opt['train']['diffusion_opt']['margin'] = MARGINS[hinge]
    opt['network_diffusion']['dropout'] = 0.0
    models = [build(opt, None), build(opt, engine)]
    data, worst = batch(opt, models[0].device), 0.0
    for n in range(1, steps + 1):
        for model in models:
            model.feed_data(data)
            model.optimize_parameters(n)
        literal, other = models[0].log, models[1].get_current_log()
        for name, value in literal.items():
            if value != other[name]:
                worst = max(worst, abs(other[name] - value) / abs(value))
    return worst


def options(option_file, samples=None, size=None):
    """The option file as a model gets it from the launcher, on this machine's device, in one process.

    Args:
        option_file (str): A joint training with residual swap.
        samples (int): Batch size. Default: 2 on a CPU, the option file's on a GPU.
        size (int): Side of a patch. Default: the option file's.
    """
    opt = read_option_file(option_file)
    on_gpu = torch.cuda.is_available()
    opt.update(num_gpu=int(on_gpu), dist=False, rank=0, world_size=1, is_train=True)
    train_set = opt['datasets']['train']
    train_set['batch_size_per_gpu'] = samples or (train_set['batch_size_per_gpu'] if on_gpu else 2)
    train_set['gt_size'] = size or train_set['gt_size']
    opt['train']['diffusion_opt'] = {**opt['train']['diffusion_opt'], 'margin': MARGINS['closed'], 'monitor_freq': 0}
    return opt


def markdown_table(rows, samples):
    """The rows of :func:`compare`, of ``samples`` a step, as a Markdown table."""
    lines = ['| variant | samples/s | speed-up | GFLOP a sample | share of convolution peak | peak memory |',
             '|---|---|---|---|---|---|']
    for row in rows:
        cells = [row['name'], f"{samples / row['seconds']:.3g}", f"{row['speedup']:.2f}",
                 f"{row['flops'] / samples / 1e9:.0f}",
                 f"{row['share_of_peak']:.0%} of {row['peak'] / 1e9:.0f} GFLOP/s", f"{row['memory'] / 2**30:.1f} GiB"]
        lines.append(f"| {' | '.join(cells)} |")
    return '\n'.join(lines)
