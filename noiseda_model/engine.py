"""How a step is computed: number format, memory layout, recomputation. None of it changes what is computed."""
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

DTYPES = {'fp32': torch.float32, 'bf16': torch.bfloat16, 'fp16': torch.float16}


def prepare_network(net, channels_last=False, recompute=False, compiled=False):
    """Set a network up for training, in place: its parameters, their names and its class stay what they are.

    Args:
        net (nn.Module): Not yet wrapped for several processes.
        channels_last (bool): Keep convolution weights, and with them all activations, with channels last in memory.
        recompute (bool): See :func:`recompute_blocks`.
        compiled (bool): ``net.compile()``; ``torch.compile(net)`` would rename the parameters. Each size of a batch is
            compiled for itself; torch's own way compiles the second one met for any size.

    Returns:
        nn.Module: ``net``.
    """
    if channels_last:
        net.to(memory_format=torch.channels_last)
    if recompute:
        recompute_blocks(net)
    if compiled:
        net.compile(dynamic=False)
    return net


def lay_out_as_parameters(optimizer):
    """Lay every moment of an optimizer out in memory as its parameter: fused optimizers take it for granted.

    A state saved before ``channels_last`` was switched on, or off, has the other layout.
    """
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if name != 'step' and torch.is_tensor(value) and value.shape == parameter.shape:
                state[name] = torch.empty_like(parameter).copy_(value)


def recompute_blocks(net):
    """Activation checkpointing of any network: keep the inputs of its blocks, compute the rest again going backward.

    A block is a member of an outermost ``nn.ModuleList`` or ``nn.Sequential`` (the stages of a U-Net, the groups of a
    SwinIR), or a ``nn.Sequential`` of plain layers as a whole. Dropout draws the same again. Blocks with batch
    normalisation are left alone: computed twice, they would count a batch twice. A network without blocks is one.
    """
    for block in list(_blocks(net)) or [net]:
        if not any(isinstance(layer, _BatchNorm) for layer in block.modules()):
            block.forward = _Recomputed(block.forward)


class _Recomputed:
    """``forward``, remembered by its inputs alone; a class, as a closure could not be copied with its network."""

    def __init__(self, forward):
        self.forward = forward

    def __call__(self, *inputs, **options):
        if torch.is_grad_enabled():
            return checkpoint(self.forward, *inputs, use_reentrant=False, **options)
        return self.forward(*inputs, **options)


def _blocks(net):
    for child in net.children():
        members = [member for member in child.children() if next(member.children(), None)]
        if isinstance(child, (nn.ModuleList, nn.Sequential)) and members:
            yield from members
        elif isinstance(child, nn.Sequential):  # of layers that may work in place on each other's output
            yield child
        else:
            yield from _blocks(child)


def has_native_bf16(device):
    """Whether bf16 is computed by instructions of its own; without them it is slower than fp32."""
    if device.type == 'cuda':
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type != 'cpu' or torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
