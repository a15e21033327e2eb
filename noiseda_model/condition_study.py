"""The paper's Fig. 1(a): how well a trained diffusion network predicts noise, against the noise in its condition.

x_t is made of a clean image y; the one condition is y with white Gaussian noise of standard deviation sigma.
"""
import argparse
from os import path as osp

import numpy as np
import torch
from tqdm import tqdm

from noiseda_basicsr import InputError, errors_in_one_line
from noiseda_basicsr.checkpoint import load_checkpoint
from noiseda_basicsr.networks import build_network
from noiseda_data.store import centre, open_images, to_float
from noiseda_model.commands import make_folder, markdown_table, named_paths, write_rows
from noiseda_model.diffusion import diffuse, noise_levels
from noiseda_model.options import check_networks, read_diffusion_options, read_option_file


class NoisePredictor:
    """A trained diffusion network and what its option file says about it.

    Args:
        net (Callable): (x_t with its conditions, alpha_bar) -> noise.
        options (dict): ``conditions``, ``timesteps`` and ``diffusion_range`` as in ``train:diffusion_opt``.
        device (str): Where the network is.
    """

    def __init__(self, net, options, device='cpu'):
        self.net, self.device = net, device
        self.conditions, self.timesteps = options['conditions'], options['timesteps']
        self.low, self.high = options['diffusion_range']

    @classmethod
    def load(cls, option_file, weights):
        """From a train option file and net_diffusion_*.pth.

        Raises:
            InputError: One of the two is missing, or they do not fit each other.
        """
        opt = read_option_file(option_file)
        check_networks(opt)
        options = read_diffusion_options(opt)
        if options is None:
            raise InputError(f'{option_file}: has no network_diffusion; give the option file the network was trained '
                             'with.')
        net = build_network(dict(opt['network_diffusion']))
        try:
            net.load_state_dict(load_checkpoint(weights)['params'])
        except (RuntimeError, KeyError, TypeError) as error:
            raise InputError(f'{weights}: does not fit network_diffusion of {option_file}. {error}') from error
        device = 'cuda' if torch.cuda.is_available() else 'cpu'
        return cls(net.to(device).eval(), options, device)

    def levels(self, count):
        """alpha_bar at the middles of ``count`` equal parts of the timesteps of training: (count,).

        The mean over them stands for the mean over the t and alpha_bar that training draws uniformly.
        """
        first, last = self.timesteps[0] - 1, self.timesteps[1]
        position = first + (torch.arange(count) + 0.5) / count * (last - first)
        before, levels = position.long(), noise_levels()
        return torch.lerp(levels[before], levels[before + 1], position - before)

    @torch.no_grad()
    def error(self, clean, conditions, alpha_bar, noise):
        """Mean squared error of the predicted noise, (B,).

        Args:
            clean (Tensor): y, (B, 3, H, W) in [0, 1].
            conditions (list[Tensor]): As many as the network has, like ``clean``.
            alpha_bar (Tensor): (B,).
            noise (Tensor): eps, like ``clean``.
        """
        y, *conditions = (image * (self.high - self.low) + self.low for image in (clean, *conditions))
        seen = torch.cat([diffuse(y, noise, alpha_bar), *conditions], dim=1)
        predicted = self.net(seen.to(self.device), alpha_bar.to(self.device))
        return (predicted.cpu() - noise).square().mean(dim=(1, 2, 3))


def error_curve(predictor, images, sigmas, levels, seed=0):
    """Noise-prediction error for each noise level, condition and image.

    An image keeps its eps and the noise of its condition, which is only scaled, at all levels and sigmas.

    Args:
        predictor (NoisePredictor): With one condition.
        images (Iterable[Tensor]): Clean, (3, H, W) in [0, 1].
        sigmas (Sequence[float]): Of the noise in the condition, on the 0-255 scale.
        levels (Tensor): alpha_bar, (L,).
        seed (int): Of the noise.

    Returns:
        ndarray: (images, sigmas, L).
    """
    errors = []
    for number, clean in enumerate(images):
        generator = torch.Generator().manual_seed(seed * 1_000_003 + number)
        noise, disturbance = torch.randn(2, *clean.shape, generator=generator)
        batch = [image.expand(len(levels), *clean.shape) for image in (clean, disturbance, noise)]
        errors.append([
            predictor.error(batch[0], [batch[0] + sigma / 255 * batch[1]], levels, batch[2]).numpy()
            for sigma in sigmas])
    return np.array(errors)


def read_crops(root, size, count=None):
    """Centre crops of the first ``count`` images as tensors (3, size, size) in [0, 1].

    Raises:
        InputError: An image is smaller.
    """
    store = open_images(root, '--images')
    for key in store.keys[:count]:
        yield centre_crop(store.read(key), size, store.location(key))


def centre_crop(image, size, name):
    """The middle of an image (H, W, 3) as a tensor (3, size, size) in [0, 1]; ``name`` is for the error."""
    height, width = image.shape[:2]
    if min(height, width) < size:
        raise InputError(f'{name}: is {width}x{height}, smaller than the crop of {size}x{size}; lower --size.')
    return torch.from_numpy(to_float(np.ascontiguousarray(centre(image, size).transpose(2, 0, 1))))


def mean_and_error(values):
    """Mean over the first axis, the images, and its standard error."""
    return values.mean(axis=0), values.std(axis=0, ddof=1) / np.sqrt(len(values))


def write_csv(path, curves, sigmas, levels):
    """A row for each network, alpha_bar (and their mean) and sigma; ``curves``: name -> :func:`error_curve`."""
    write_rows(path, [{'network': name, 'alpha_bar': label, 'sigma': sigma, 'noise_error': mean,
                       'standard_error': error, 'images': len(values)}
                      for name, errors in curves.items() for label, values in by_level(errors, levels)
                      for sigma, mean, error in zip(sigmas, *mean_and_error(values), strict=True)])


def by_level(errors, levels):
    """(label, values (images, sigmas)) for the mean over all levels, and for each."""
    yield 'mean', errors.mean(axis=2)
    for number, level in enumerate(levels.tolist()):
        yield f'{level:.6f}', errors[..., number]


def plot(path, curves, sigmas, levels, show=3):
    """The mean over all noise levels, and beside it ``show`` of them, with the standard error over images."""
    import matplotlib
    matplotlib.use('Agg')
    matplotlib.rcParams['svg.fonttype'] = 'none'  # text stays text: a smaller file
    from matplotlib import pyplot
    shown = [0, *np.linspace(1, len(levels), show, dtype=int)]
    figure, axes = pyplot.subplots(1, len(shown), figsize=(3.2 * len(shown), 3.2), layout='constrained')
    for name, errors in curves.items():
        panels = list(by_level(errors, levels))
        for axis, number in zip(axes, shown, strict=True):
            label, values = panels[number]
            mean, error = mean_and_error(values)
            axis.errorbar(sigmas, mean, error, label=name, marker='.', capsize=2)
            axis.set_title('mean over t' if label == 'mean' else rf'$\bar\alpha$ = {float(label):.4f}', fontsize=10)
            axis.set_xlabel('$\\sigma$ of the noise in the condition')
            axis.set_ylim(bottom=0)
    axes[0].set_ylabel('noise-prediction MSE')
    axes[0].legend()
    figure.savefig(path, metadata={'Date': None} if path.endswith('.svg') else None)
    pyplot.close(figure)


def main(arguments=None):
    """The command line."""
    parser = argparse.ArgumentParser(
        prog='condition_study.py', description="The paper's Fig. 1(a): noise-prediction error of one-condition "
        'diffusion networks against the noise in their condition.')
    parser.add_argument('networks', nargs='+', metavar='NAME=WEIGHTS', help='net_diffusion_*.pth, and what to call it')
    parser.add_argument('-opt', required=True, help='their option file, with conditions: [syn]')
    parser.add_argument('--images', required=True, help='folder or LMDB of clean images')
    parser.add_argument('--out', required=True, help='folder for condition_study.csv and .svg')
    parser.add_argument('--sigmas', type=float, nargs=3, default=[0, 80, 10], metavar=('FIRST', 'LAST', 'STEP'),
                        help='of the noise in the condition, of 255 (default: 0 80 10)')
    parser.add_argument('--levels', type=int, default=12, help='noise levels, spread evenly over t (default: 12)')
    parser.add_argument('--count', type=int, help='images (default: all)')
    parser.add_argument('--size', type=int, default=64, help='side of their centre crop (default: 64)')
    parser.add_argument('--seed', type=int, default=0)
    args = parser.parse_args(arguments)
    with errors_in_one_line():
        run(args)


def run(args):
    """:func:`main` on parsed arguments."""
    make_folder(args.out)
    curves, levels = {}, None
    first, last, step = args.sigmas
    sigmas = np.arange(first, last + step / 2, step).tolist()
    for name, weights in named_paths(args.networks, 'networks').items():
        predictor = NoisePredictor.load(args.opt, weights)
        if len(predictor.conditions) != 1:
            raise InputError(f'{args.opt}: train:diffusion_opt:conditions is {predictor.conditions}; this study is of '
                             'one condition, [syn] or [real].')
        levels = predictor.levels(args.levels)
        images = list(read_crops(args.images, args.size, args.count))
        if len(images) < 2:
            raise InputError(f'--images {args.images}: holds one image; the error bars need two or more.')
        curves[name] = error_curve(predictor, tqdm(images, unit='image', desc=name), sigmas, levels, args.seed)
    write_csv(osp.join(args.out, 'condition_study.csv'), curves, sigmas, levels)
    plot(osp.join(args.out, 'condition_study.svg'), curves, sigmas, levels)
    columns = [[f'{mean:.4f} +- {error:.4f}' for mean, error in zip(*mean_and_error(errors.mean(axis=2)), strict=True)]
               for errors in curves.values()]
    print(markdown_table(['sigma', *curves], zip([f'{sigma:g}' for sigma in sigmas], *columns, strict=True)))
    print(f'Mean over {args.levels} noise levels, +- standard error over images. All of it: {args.out}/')
