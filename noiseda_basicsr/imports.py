"""What BasicSR 1.4.2 needs before it can be imported."""
import importlib
import sys

import torch


def make_basicsr_importable():
    """Apply both import repairs; each does nothing where it is not needed."""
    _declare_missing_torchvision_operators()
    _provide_functional_tensor()


def _declare_missing_torchvision_operators():
    """Let torchvision import beside a torch its compiled operators were not built for (a CPU-only torch, say).

    torchvision registers meta kernels for ``torchvision::nms`` and ``::qnms`` at import and dies with "operator
    torchvision::nms does not exist" when its C++ library could not be loaded. BasicSR and lpips use only the Python
    half of torchvision, so declaring the two schemas is enough; calling them still fails with a clear error.
    Not applied where torchvision imports by itself.
    """
    try:
        import torchvision  # noqa: F401
    except RuntimeError as error:
        if 'torchvision::' not in str(error):
            raise
    else:
        return
    for name in [name for name in sys.modules if name.split('.')[0] == 'torchvision']:
        del sys.modules[name]  # the half-imported package
    for operator in ('nms', 'qnms'):
        torch.library.define(f'torchvision::{operator}', '(Tensor dets, Tensor scores, float iou_threshold) -> Tensor')
    import torchvision  # noqa: F401


def _provide_functional_tensor():
    """Give BasicSR 1.4.2 the module torchvision 0.17 removed (``basicsr/data/degradations.py``, BasicSR #663).

    Not applied where torchvision still has it. BasicSR's master no longer imports it.
    """
    name = 'torchvision.transforms.functional_tensor'
    try:
        importlib.import_module(name)
    except ModuleNotFoundError:
        from torchvision.transforms import functional
        sys.modules[name] = functional  # the one function asked for, rgb_to_grayscale, lives here now
