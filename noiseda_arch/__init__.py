"""The paper's two networks and spandrel's, registered with BasicSR under their names; presets of the paper's sizes."""
import noiseda_basicsr  # noqa: F401  makes BasicSR importable
from noiseda_arch import presets  # noqa: F401
from noiseda_arch.conditional_unet_arch import ConditionalUNet
from noiseda_arch.restoration_unet_arch import RestorationUNet
from noiseda_arch.spandrel_archs import SpandrelArch

__all__ = ['ConditionalUNet', 'RestorationUNet', 'SpandrelArch']
