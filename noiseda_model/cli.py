"""The commands noiseda-train and noiseda-test: BasicSR's launchers with this plugin registered."""
from noiseda_basicsr.launch import test, train

__all__ = ['test', 'train']
