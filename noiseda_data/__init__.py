"""Images in: the data set of synthetic pairs and unpaired real photos, the stores behind it, the degradations."""
import noiseda_basicsr  # noqa: F401  makes BasicSR importable
from noiseda_data.paired_unpaired_dataset import PairedUnpairedDataset

__all__ = ['PairedUnpairedDataset']
