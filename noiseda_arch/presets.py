"""The networks of the paper, under names an option file can use: ``network_g: {type: Uformer-B}``.

A preset is an architecture with arguments; any of them may still be changed beside ``type``.
"""
import inspect

from basicsr.utils.registry import ARCH_REGISTRY

from noiseda_arch import restoration_unet_arch, spandrel_archs  # noqa: F401  registered before they are named here

PRESETS = {
    'Unet-T': {'type': 'RestorationUNet', 'width': 'T'},
    'Unet-S': {'type': 'RestorationUNet', 'width': 'S'},
    'Unet-B': {'type': 'RestorationUNet', 'width': 'B'},
    # The paper's "Ours*", a deeper U-Net, was never defined; this one comes near its size and cost.
    'Unet-deep': {'type': 'RestorationUNet', 'width': 75, 'depth': 6, 'max_width': 752},
    'Uformer-T': {'type': 'Uformer', 'embed_dim': 16},
    'Uformer-S': {'type': 'Uformer', 'embed_dim': 32},
    'Uformer-B': {'type': 'Uformer', 'embed_dim': 32, 'depths': [1, 2, 8, 8, 2, 8, 8, 2, 1], 'modulator': True},
    # The paper names these without sizes; the sizes are those of their own papers' colour denoisers.
    'DnCNN-C': {'type': 'DnCNN', 'in_nc': 3, 'out_nc': 3, 'nc': 64, 'nb': 20, 'act_mode': 'BR'},
    'RCAN-10x20': {'type': 'RCAN', 'num_in_ch': 3, 'num_out_ch': 3, 'num_group': 10, 'num_block': 20, 'upscale': 1},
    'SwinIR-M': {'type': 'SwinIR', 'upscale': 1, 'img_size': 128, 'window_size': 8, 'embed_dim': 180, 'depths': [6] * 6,
                 'num_heads': [6] * 6, 'mlp_ratio': 2},
    'Restormer-48': {'type': 'Restormer', 'dim': 48, 'LayerNorm_type': 'BiasFree'},
    'NAFNet-32': {'type': 'NAFNet', 'width': 32, 'middle_blk_num': 12, 'enc_blk_nums': [2, 2, 4, 8],
                  'dec_blk_nums': [2, 2, 2, 2]},
}


def _preset(name, type, **arguments):
    arch = ARCH_REGISTRY.get(type)

    def build(**changes):
        return arch(**{**arguments, **changes})

    signature = inspect.signature(arch)
    parameters = [p.replace(default=arguments.get(p.name, p.default)) for p in signature.parameters.values()
                  if p.kind is not p.VAR_KEYWORD]
    build.__name__, build.__doc__ = name, arch.__doc__
    build.__signature__ = signature.replace(parameters=parameters)
    return build


for _name, _network in PRESETS.items():
    ARCH_REGISTRY.register(_preset(_name, **_network))
