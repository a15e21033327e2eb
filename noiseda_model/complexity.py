"""What a restoration network costs: parameters, multiply-accumulates, memory for training, speed."""
import time

import torch
from torch.utils.flop_counter import FlopCounterMode

from noiseda_arch.padding import pad_to_multiple, size_rule
from noiseda_basicsr.networks import build_network
from noiseda_model.options import check_networks, read_network

# Million parameters and GMACs as the paper prints them: Appendix A1.3 and Table A2. Those of the U-Nets and Restormer
# are for 128x128; the size behind Uformer's is not stated, 256x256 comes nearest for Uformer-B.
PAPER = {
    'Unet-T': (2.14, 3.14, 128),
    'Unet-S': (8.56, 12.48, 128),
    'Unet-B': (12.07, 17.58, 128),
    'Unet-deep': (65.19, 22.46, 128),
    'Uformer-T': (9.50, 15.49, None),
    'Uformer-S': (21.38, 34.76, None),
    'Uformer-B': (53.58, 86.97, None),
    'Restormer-48': (26.09, 35.24, 128),
}


def build(name):
    """The network_g of an option file, or a registered architecture with its default arguments.

    Raises:
        InputError: There is none of this name, or it has arguments without defaults.
    """
    if name.endswith('.yml'):
        return build_network(read_network(name))
    check_networks({'network_g': {'type': name}})
    return build_network({'type': name})


def measure(net, size, device='cpu', seconds=1.0):
    """Cost of restoring one RGB image of ``size`` x ``size``, padded as the network needs it.

    Args:
        net (nn.Module): Maps an image to an image.
        size (int): Side of the image.
        device (str): Where to measure.
        seconds (float): Shortest time to measure the speed for.

    Returns:
        dict: ``parameters``; ``macs``, multiply-accumulates of convolutions and matrix products (torch's flop counter);
        ``activations``, bytes that autograd keeps for the backward pass of one image; ``images_per_second``, without
        gradients.
    """
    net = net.to(device)
    image = pad_to_multiple(torch.rand(1, 3, size, size, device=device), **size_rule(net))
    activations = _activation_bytes(net.train(), image)
    net.eval()
    with torch.no_grad():
        with FlopCounterMode(display=False) as counter:
            net(image)
        return {
            'parameters': sum(parameter.numel() for parameter in net.parameters()),
            'macs': counter.get_total_flops() // 2,
            'activations': activations,
            'images_per_second': 1 / _shortest_time(lambda: net(image), device, seconds),
        }


def _activation_bytes(net, image):
    """Storages that autograd saves, each counted once, without the parameters and buffers."""
    own = {tensor.untyped_storage().data_ptr() for tensor in [*net.parameters(), *net.buffers()]}
    saved = {}

    def note(tensor):
        storage = tensor.untyped_storage()
        saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        output = net(image)  # keeps what is saved alive, so no address is used twice
    del output
    return sum(size for address, size in saved.items() if address not in own)


def _shortest_time(run, device, seconds):
    """Of five runs or more; the longer ones measure what else the machine was doing."""
    times, start = [], time.perf_counter()
    while len(times) < 5 or time.perf_counter() - start < seconds:
        begin = time.perf_counter()
        run()
        if device == 'cuda':
            torch.cuda.synchronize()
        times.append(time.perf_counter() - begin)
    return min(times)


def rows(measured, size):
    """The table of :func:`measure`'s results beside the paper's figures.

    Args:
        measured (dict): Name -> result.
        size (int): Side of the images.

    Returns:
        list[list[str]]: The first is the head.
    """
    table = [['network', 'parameters (M)', f'GMACs at {size}x{size}', 'activations (MiB)', 'images/s',
              'paper: parameters (M)', 'paper: GMACs', 'difference']]
    for name, cost in measured.items():
        millions, gmacs = cost['parameters'] / 1e6, cost['macs'] / 1e9
        paper = PAPER.get(name)
        table.append([name, f'{millions:.2f}', f'{gmacs:.2f}', f"{cost['activations'] / 2**20:.0f}",
                      f"{cost['images_per_second']:.3g}", *_beside_paper(paper, millions, gmacs, size)])
    return table


def _beside_paper(paper, millions, gmacs, size):
    if paper is None:
        return ['', '', '']
    differences = [f'parameters {millions / paper[0] - 1:+.1%}']
    if paper[2] == size:
        differences.append(f'GMACs {gmacs / paper[1] - 1:+.1%}')
    at = f'{paper[2]}x{paper[2]}' if paper[2] else 'size not stated'
    return [f'{paper[0]:.2f}', f'{paper[1]:.2f} ({at})', ', '.join(differences)]


def markdown(table):
    """A list of rows as a Markdown table."""
    lines = ['| ' + ' | '.join(row) + ' |' for row in table]
    lines.insert(1, '|---|' + '---:|' * (len(table[0]) - 1))
    return '\n'.join(lines)
