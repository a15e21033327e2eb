"""A trained restoration network in the formats other programs read; each file is read back and compared."""
import contextlib
import copy
import io
import json
import os
import warnings
from os import path as osp
from unittest import mock

import safetensors.torch
import spandrel
import torch
from safetensors import SafetensorError
from torch import nn
from torch.nn import functional as F

from noiseda_arch.padding import size_rule
from noiseda_arch.spandrel_archs import REGISTRY, SpandrelArch
from noiseda_basicsr import InputError
from noiseda_basicsr.checkpoint import atomic_save, network_note
from noiseda_model.commands import make_folder
from noiseda_model.inference import restore

TOLERANCE = 1e-4  # of the largest output
WEIGHTS = ('.pth', '.safetensors')
REMEDY = 'Choose another place, or make room.'


def export(net, path, size=None, network=None, half=False):
    """Write a network in the format of the file's ending, read it back and compare.

    .pth and .safetensors hold the weights under the names the architecture gave them; those of spandrel's architectures
    load in spandrel. .onnx and .pt (TorchScript) hold the computation, padding included: one RGB image (1, 3, H, W) in
    [0, 1] in, the restored one, not clipped, out. H and W are free, but not below the network's minimum or multiple.

    Args:
        net (nn.Module): In eval mode, on the CPU.
        path (str): File to write.
        size (tuple[int]): (H, W) of every image, for networks that cannot be exported for all sizes.
        network (dict): Its ``network_g`` block, noted in a .pth as training notes it: such a file needs no option file.
        half (bool): Round the weights to half precision; the file is half as large. They compute as fp32 when loaded.

    Returns:
        str: What was compared, in one line.

    Raises:
        InputError: The ending is unknown, a package is missing, or what was read back restores differently.
    """
    make_folder(osp.dirname(osp.abspath(path)))
    unproven = osp.join(osp.dirname(path), f'.unproven-{osp.basename(path)}')  # an earlier file stays if this one fails
    try:
        with open(unproven, 'wb'):  # before a writer says so in words of its own
            pass
        told = _export(net, unproven, size, network, half)
        os.replace(unproven, path)
    except InputError as error:
        raise InputError(str(error).replace(unproven, path)) from error
    except (OSError, SafetensorError) as error:
        raise InputError(f'{path}: cannot be written ({error}). {REMEDY}') from error
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.remove(unproven)
    return told.replace(unproven, path)


def _export(net, path, size, network, half):
    ending = osp.splitext(path)[1]
    writers = {'.onnx': _to_onnx, '.pt': _to_torchscript}
    if ending in WEIGHTS:
        return _export_weights(net, path, network, half)
    if ending not in writers:
        raise InputError(f'{path}: the ending must be one of {", ".join([*WEIGHTS, *writers])}.')
    if half:
        raise InputError(f'{path}: half precision is for files of weights, {" and ".join(WEIGHTS)}.')
    return _export_computation(net, path, writers[ending], size)


# ---------------------------------------------------------------------- weights


def _export_weights(net, path, network, half):
    stored, told = _halved(net, path) if half else (net, '')
    weights = stored.state_dict()
    if path.endswith('.pth'):
        atomic_save({'params': weights, **network_note('network_g', network)}, path, REMEDY)
    else:
        weights = {name: value.clone().contiguous() for name, value in weights.items()}  # none may share memory
        note = {key: json.dumps(value) for key, value in network_note('network_g', network).items()}
        safetensors.torch.save_file(weights, path, metadata={'format': 'pt', **note})
    return _compare_in_spandrel(stored.float(), path) + told


def _halved(net, path):
    """The network with weights of half precision, and how differently it restores."""
    half = copy.deepcopy(net).half()
    rounded = copy.deepcopy(half).float()
    difference = max(_difference(restore(rounded, image), restore(net, image)) for image in _images(net, None))
    if not difference < 1 / 255:  # NaN, too
        raise InputError(f'{path}: with weights of half precision the network restores differently, by '
                         f'{difference:.1e}; leave --half out.')
    return half, f' Half precision changes the result by {255 * difference:.2g} of 255 at most.'


def _compare_in_spandrel(net, path):
    try:
        loaded = spandrel.ModelLoader(registry=REGISTRY).load_from_file(path)
    except Exception:  # it is not spandrel's, or resembles one of its networks without being it
        return f'{path}: written. spandrel does not read {type(net).__name__}; load it here.'
    rebuilt = SpandrelArch(path).eval()
    image = torch.rand(1, 3, *_sizes(net, None)[0])
    difference = _difference(restore(rebuilt, image), restore(net, image))
    if difference > TOLERANCE:
        given, read = (getattr(n, 'hyperparameters', {}) for n in (net, rebuilt))
        lost = [f'{key} {given[key]!r} (spandrel takes {read.get(key)!r})' for key in given
                if given[key] != read.get(key)]
        raise InputError(f'{path}: spandrel reads these weights as a {loaded.architecture.name} that restores '
                         f'differently, by {difference:.1e}. It cannot tell from the weights: {"; ".join(lost)}.')
    return f'{path}: written. spandrel reads a {loaded.architecture.name} and restores alike (to {difference:.0e}).'


# ---------------------------------------------------------------------- computation


class Padded(nn.Module):
    """A network with the padding it needs, in operations whose sizes stay variables when traced."""

    def __init__(self, net, multiple):
        super().__init__()
        self.net, self.multiple = net, multiple

    def forward(self, image):
        height, width = image.shape[-2:]
        bottom, right = ((side + self.multiple - 1) // self.multiple * self.multiple - side for side in (height, width))
        if self.multiple > 1:
            image = F.pad(image, (0, right, 0, bottom), mode='reflect')
        return self.net(image)[..., :height, :width]


def _export_computation(net, path, write, size):
    """Networks that pad by themselves fix the padding when traced; larger multiples leave them nothing to pad."""
    rule = size_rule(net)
    if rule['square'] and size is None:
        raise InputError(f'{path}: {type(net).__name__} works on square images only; give one size, --size 256 256.')
    image = torch.rand(1, 3, *(size or _sizes(net, None)[0]))
    if size is not None and (size[0] % rule['multiple'] or size[1] % rule['multiple'] or min(size) < rule['minimum']
                             or (rule['square'] and size[0] != size[1])):
        raise InputError(f'{path}: --size {size[0]} {size[1]} does not suit {type(net).__name__}, whose sides are '
                         f"{'equal, ' * rule['square']}multiples of {rule['multiple']} and at least "
                         f"{max(rule['minimum'], rule['multiple'])}.")
    multiples = [1] if size else [rule['multiple'], *(m for m in (8, 16, 32, 64) if m > rule['multiple'])]
    for multiple in multiples:
        try:
            run = write(Padded(net, multiple).eval(), path, image, size is None)
            difference = max(_difference(run(image), restore(net, image)) for image in _images(net, size))
        except InputError:
            raise
        except Exception as error:  # of torch's tracer or of the runtime, in many types
            reason = ' '.join(f'{type(error).__name__} {error}'.split())[:200]
            continue
        if difference <= TOLERANCE:
            sizes = f'{size[0]}x{size[1]}' if size else 'any size'
            return f'{path}: written, for images of {sizes}. Restores like PyTorch (to {difference:.0e}).'
        reason = f'it restores differently, by {difference:.1e}'
    remedy = '' if size else ' for all sizes. Give one size, --size 256 256'
    raise InputError(f'{path}: {type(net).__name__} cannot be exported{remedy} ({reason}).')


def _to_torchscript(padded, path, image, any_size):
    # TorchScript cannot hold a torch.autograd.Function (NAFNet's LayerNorm); without gradients, its forward is enough
    plain = classmethod(lambda function, *inputs: function.forward(mock.Mock(), *inputs))
    with _quiet(), torch.no_grad(), mock.patch.object(torch.autograd.Function, 'apply', plain):
        torch.jit.trace(padded, image, check_trace=False).save(path)
        return torch.jit.load(path)


def _to_onnx(padded, path, image, any_size):
    try:
        import onnxruntime
    except ImportError as error:
        raise InputError(f'{path}: ONNX needs packages of its own: pip install onnx onnxruntime.') from error
    free = {2: 'height', 3: 'width'} if any_size else {}
    with _quiet(), torch.no_grad():
        torch.onnx.export(padded, (image,), path, dynamo=False, opset_version=18, input_names=['image'],
                          output_names=['restored'], dynamic_axes={'image': free, 'restored': free})
    session = onnxruntime.InferenceSession(path, providers=['CPUExecutionProvider'])
    return lambda image: torch.from_numpy(session.run(None, {'image': image.numpy()})[0])


@contextlib.contextmanager
def _quiet():
    """Tracers warn about every Python number they meet, and print their graph; the comparison tells what mattered."""
    no_graph = mock.patch.object(torch._C, '_jit_set_onnx_log_enabled')  # torch 2.13 switches it on by mistake
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), no_graph:
        warnings.simplefilter('ignore')
        yield


def _sizes(net, size):
    """Sizes to compare at: the one there is, or odd ones."""
    if size:
        return [tuple(size)]
    rule = size_rule(net)
    side = max(rule['multiple'], rule['minimum'], 32)
    return [(side + 13, side + 37), (2 * side + 1, side + 8)]


def _images(net, size):
    generator = torch.Generator().manual_seed(0)
    return [torch.rand(1, 3, *sides, generator=generator) for sides in _sizes(net, size)]


@torch.no_grad()
def _difference(actual, expected):
    if actual.shape != expected.shape:
        return float('inf')
    return ((actual - expected).abs().max() / expected.abs().max().clamp(min=1)).item()
