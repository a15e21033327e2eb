"""Noise-space domain adaptation for image restoration, as a BasicSR plugin.

Importing this package registers everything with BasicSR: ``NoiseDAModel``, ``PairedUnpairedDataset``,
``ConditionalUNet``, ``RestorationUNet`` and the metric ``calculate_lpips``.
"""
import noiseda_arch  # noqa: F401
import noiseda_basicsr  # noqa: F401  makes BasicSR importable
import noiseda_data  # noqa: F401
from noiseda_model import metrics  # noqa: F401
from noiseda_model.noiseda_model import NoiseDAModel

# Option files name this string (plugin: !!python/name:noiseda_model.PLUGIN): reading one imports this package.
PLUGIN = 'noiseda_model'

__all__ = ['PLUGIN', 'NoiseDAModel']
