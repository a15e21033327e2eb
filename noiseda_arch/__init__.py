"""The paper's two networks, registered with BasicSR under their class names."""
import noiseda_basicsr  # noqa: F401  makes BasicSR importable
from noiseda_arch.conditional_unet_arch import ConditionalUNet
from noiseda_arch.restoration_unet_arch import RestorationUNet

__all__ = ['ConditionalUNet', 'RestorationUNet']
