"""Every network of spandrel that can restore at scale 1, registered with BasicSR; and any weight file it recognises.

The registered builders take the architecture's own arguments and return spandrel's own module, so its weights keep
their names and load in spandrel again. What spandrel's description says about image sizes becomes attributes of the
module (see :mod:`noiseda_arch.padding`).
"""
import functools
import importlib
import inspect
import json

import basicsr.archs  # noqa: F401  registers BasicSR's networks first: they keep their names
import safetensors
import safetensors.torch
import spandrel
import torch
from basicsr.utils.registry import ARCH_REGISTRY

from noiseda_basicsr import InputError
from noiseda_basicsr.checkpoint import load_checkpoint

# Class name -> the arguments with which it maps an image to an image of equal size; all others are the user's.
RESTORERS = {
    'ATD': {'upscale': 1},
    'CRAFT': {'upscale': 1},
    'Compact': {'upscale': 1},
    'DAT': {'upscale': 1},
    'DCTLSA': {'upscale': 1},
    'DITN': {'upscale': 1},
    'DRCT': {'upscale': 1, 'upsampler': 'pixelshuffle'},  # its default upsampler returns the input untouched
    'DRUNet': {},
    'DnCNN': {},
    'ESRGAN': {'scale': 1},
    'FBCNN': {},
    'FDAT': {'scale': 1},
    'FFTformer': {},
    'GRL': {'upscale': 1},
    'HAT': {'upscale': 1},
    'HVICIDNet': {},
    'KBNet_l': {},
    'KBNet_s': {},
    'MixDehazeNet': {},
    'MoESR': {'scale': 1},
    'NAFNet': {},
    'OmniSR': {'up_scale': 1},
    'PLKSR': {'upscaling_factor': 1},
    'RCAN': {'scale': 1},
    'RGT': {'upscale': 1},
    'RealPLKSR': {'upscaling_factor': 1},
    'RetinexFormer': {},
    'SAFMN': {'upscaling_factor': 1},
    'SAFMNBCIE': {},
    'SCUNet': {},
    'SPAN': {'upscale': 1},
    'SwiftSRGAN': {'upscale_factor': 1},
    'Swin2SR': {'upscale': 1},
    'SwinIR': {'upscale': 1},
    'Uformer': {},
}
# The same for spandrel_extra_arches, an extra of this package: the code of these networks has restrictive licences.
EXTRA_RESTORERS = {'M3SNet': {}, 'MIRNet2': {}, 'MPRNet': {}, 'Restormer': {}, 'SRFormer': {'upscale': 1}}
# Class name -> why it is not registered.
UNSUITED = {
    'AdaCode': 'restores through codebooks that are trained beforehand',
    'AuraSR': 'only enlarges',
    'CodeFormer': 'restores faces',
    'DDColor': 'colours grey photos',
    'FeMaSR': 'restores through a codebook that is trained beforehand',
    'GFPGAN': 'restores faces',
    'IPT': 'cuts an image into patches of one size itself, outside the network',
    'LaMa': 'fills masked holes',
    'MAT': 'fills masked holes',
    'MMRealSR': 'does not run at scale 1',
    'MoSR': 'only enlarges',
    'RestoreFormer': 'restores faces',
    'SeemoRe': 'takes one image at a time outside training',
    'UpCunet2x': 'only enlarges',
    'UpCunet2x_fast': 'only enlarges',
    'UpCunet3x': 'only enlarges',
    'UpCunet4x': 'only enlarges',
}


def _registry():
    """spandrel's registry, with the extra architectures where they are installed; the global one stays as it is."""
    registry = spandrel.MAIN_REGISTRY.copy()
    try:
        from spandrel_extra_arches import EXTRA_REGISTRY
    except ImportError:
        return registry
    registry.add(*EXTRA_REGISTRY, ignore_duplicates=True)
    return registry


def _networks(registry):
    """{class: (its name in spandrel, its architecture)}; the class itself may be called otherwise."""
    found = {}
    for support in registry:
        module = importlib.import_module(type(support.architecture).__module__)
        exported = {name: getattr(module, name) for name in module.__all__}
        found.update((item, (name, support.architecture)) for name, item in exported.items()
                     if isinstance(item, type) and issubclass(item, torch.nn.Module))
    return found


REGISTRY = _registry()
NETWORKS = _networks(REGISTRY)
NEEDS_EXTRA = 'needs the package spandrel_extra_arches: pip install spandrel_extra_arches. Mind the licences inside.'


@ARCH_REGISTRY.register()
def SpandrelArch(path):  # noqa: N802  registered under this name
    """Whatever restoration network a weight file holds, rebuilt with its weights, ready to train.

    Args:
        path (str): A .pth (averaged weights are preferred, as everywhere in spandrel) or a .safetensors file.

    Returns:
        nn.Module: (B, 3, H, W) -> the same.

    Raises:
        InputError: The file is not readable, is not recognised, or its network does not restore at scale 1.
    """
    weights = read_weights(path)
    try:
        description = REGISTRY.load(weights)
    except spandrel.UnsupportedModelError as error:
        hint = '' if 'Restormer' in REGISTRY else f' (Restormer, MPRNet and others {NEEDS_EXTRA})'
        raise InputError(f'{path}: spandrel does not recognise this network{hint}. Name its architecture in network_g '
                         'and the file in path:pretrain_network_g.') from error
    return _image_to_image(description.model, description, path)


def read_weights(path):
    """The content of a .pth or .safetensors file; of the latter as of a .pth, where the network is noted in it.

    Raises:
        InputError: It is missing or not readable.
    """
    if not path.endswith('.safetensors'):
        return load_checkpoint(path)
    try:
        weights = safetensors.torch.load_file(path)
        with safetensors.safe_open(path, 'pt') as file:
            network = (file.metadata() or {}).get('network_g')
        return {'params': weights, 'network_g': json.loads(network)} if network else weights
    except (OSError, safetensors.SafetensorError) as error:
        raise InputError(f'{path}: not a readable .safetensors file ({error}).') from error


def _image_to_image(net, description, name):
    """The network with one image in and out, and its sizes as attributes.

    Raises:
        InputError: It is made for something else than restoring at scale 1, or its colours differ.
    """
    arch = NETWORKS[type(net)][0]
    if arch not in RESTORERS and arch not in EXTRA_RESTORERS:
        raise InputError(f'{name}: {arch} {UNSUITED.get(arch, "is unknown to this project")}; it cannot be adapted.')
    if description.scale != 1:
        raise InputError(f'{name}: this {arch} enlarges {description.scale} times; this project restores at scale 1.')
    channels = description.input_channels
    if channels != description.output_channels or channels not in (1, 3):
        raise InputError(f'{name}: {arch} turns {channels} channels into {description.output_channels}; it must map '
                         'RGB to RGB, or grey to grey.')
    call = CALLS.get('FDnCNN' if getattr(net, 'mode', None) == 'FDnCNN' else arch)
    if call:
        _wrap_forward(net, call)
    if channels == 1:
        _wrap_forward(net, _each_colour)
    sizes = description.size_requirements
    net.size_multiple, net.size_minimum, net.size_square = sizes.multiple_of, sizes.minimum, sizes.square
    net.tiling_discouraged = description.tiling is not spandrel.ModelTiling.SUPPORTED
    return net


def _wrap_forward(net, call):
    """Make ``call(forward, image)`` the forward of this one network; its weights keep their names."""
    plain = type(net)

    def forward(self, image):
        return call(functools.partial(plain.forward, self), image)

    net.__class__ = type(plain.__name__, (plain,), {'forward': forward})


def _first_output(forward, image):
    return forward(image)[0]


def _with_noise_level(forward, image):
    """spandrel's constant level, 15 / 255, for networks that expect a map of it beside the image."""
    return forward(torch.cat([image, torch.full_like(image[:, :1], 15 / 255)], dim=1))


def _on_a_copy(forward, image):
    """For a forward that scales the image it is given in place."""
    return forward(image.clone())


def _each_colour(forward, image):
    """A grey network restores every colour by itself."""
    return forward(image.flatten(0, 1)[:, None]).view_as(image)


# What spandrel does around the forward of these, for batches of any size.
CALLS = {
    'DRUNet': _with_noise_level,
    'FDnCNN': _with_noise_level,  # a mode of DnCNN
    'FBCNN': _first_output,  # the second is the estimated JPEG quality
    'MPRNet': _first_output,  # the last stage's image
    'MixDehazeNet': lambda forward, image: forward(image) * 0.5 + 0.5,
    'RCAN': _on_a_copy,
}


def _builder(network, name, architecture):
    """A function that builds a network from its own arguments, with the signature of its constructor."""
    fixed = {**RESTORERS, **EXTRA_RESTORERS}[name]

    def build(**arguments):
        for key, value in fixed.items():
            if arguments.setdefault(key, value) != value:
                raise InputError(f'{name}: {key} is {arguments[key]!r}; to restore at scale 1 it must be {value!r}.')
        try:
            net = network(**arguments)
        except Exception as error:  # an assertion, a shape, a key: every architecture fails in its own way
            raise InputError(f'{name} cannot be built with these arguments ({error}).') from error
        try:
            description = architecture.load(net.state_dict())
        except Exception as error:  # whatever goes wrong inside spandrel, differently in each architecture
            raise InputError(f'{name}: spandrel cannot read weights of these sizes back ({error}), so they would be of '
                             'no use elsewhere. Stay nearer to the published arguments.') from error
        return _image_to_image(net, description, name)

    signature = inspect.signature(network)
    parameters = [p.replace(default=fixed.get(p.name, p.default)) for p in signature.parameters.values()]
    build.__name__, build.__doc__ = name, network.__doc__
    build.__signature__ = signature.replace(parameters=parameters)
    return build


def _missing(name):
    def build(**arguments):
        raise InputError(f'{name} {NEEDS_EXTRA}')

    build.__name__ = name
    return build


def _register():
    """Register every restorer under its name, or NAME_spandrel where BasicSR has a network of that name.

    Returns:
        list[str]: The registered names, without those that need the extra package where it is missing.
    """
    builders = {name: _missing(name) for name in EXTRA_RESTORERS}
    for network, (name, architecture) in NETWORKS.items():
        if name in RESTORERS or name in EXTRA_RESTORERS:
            builders[name] = _builder(network, name, architecture)
    known = {name for name, _ in NETWORKS.values()}
    registered = []
    for name, builder in builders.items():
        suffix = 'spandrel' if name in ARCH_REGISTRY else None
        ARCH_REGISTRY.register(builder, suffix)
        if name in known:
            registered.append(f'{name}_{suffix}' if suffix else name)
    return registered


SPANDREL_NETWORKS = _register()
