"""Synthetic pairs, real photos without ground truth, and clean references, drawn independently of each other."""
import math

import cv2
import numpy as np
import torch
from basicsr.utils import get_root_logger
from basicsr.utils.dist_util import get_dist_info
from basicsr.utils.registry import DATASET_REGISTRY
from torch.utils.data import Dataset, get_worker_info

from noiseda_basicsr import InputError
from noiseda_data.degradations import build_degradation
from noiseda_data.degradations.draws import Range
from noiseda_data.store import open_images, to_float

OWN_OPTIONS = ('dataroot_gt', 'dataroot_lq', 'dataroot_real', 'dataroot_ref', 'degradation', 'enlarge', 'filename_tmpl',
               'gt_size', 'use_hflip', 'use_rot', 'on_error')
BASICSR_OPTIONS = ('name', 'type', 'phase', 'scale', 'io_backend', 'batch_size_per_gpu', 'num_worker_per_gpu',
                   'dataset_enlarge_ratio', 'prefetch_mode', 'num_prefetch_queue', 'pin_memory', 'persistent_workers')
SKIPS = 20  # broken images in a row that are an accident; more are a mistake


@DATASET_REGISTRY.register()
class PairedUnpairedDataset(Dataset):
    """Reads every image stream of the method. Each source is a folder, an LMDB (PNG, raw), or several joined by ``;``.

    An item for training holds float32 tensors (3, gt_size, gt_size), RGB:

    ======== ============= =================================================================================
    key      symbol        where it comes from
    ======== ============= =================================================================================
    ``gt``   y^s           ``dataroot_gt``
    ``lq``   x^s           ``dataroot_lq`` (same names, ``filename_tmpl`` apart), or ``degradation`` applied to gt
    ``real`` x^r           a random image of ``dataroot_real``, if given
    ``ref``  y^u           a random image of ``dataroot_ref``, if given
    ======== ============= =================================================================================

    ``gt``, ``real``, ``ref`` are in [0, 1]; ``lq`` too when read, but a synthesised one is not clipped. Crop and
    flips/rotations are drawn separately for the pair, real and ref. Images smaller than the patch are reflected up.
    With ``enlarge: [low, high]`` a smaller crop of gt is enlarged to a patch, by a factor drawn, and then degraded.
    Validation and test items are whole images (``lq``, ``gt`` if given, ``lq_path``); ``dataroot_gt`` may be missing.

    A broken image stops the training; with ``on_error: skip`` another one takes its place, and the log names it.

    Everything random about an item follows from (manual seed, epoch, place in the epoch) under this project's
    launcher. Under BasicSR's, workers continue a stream of their own, which differs between ranks, workers and epochs.

    Raises:
        InputError: Unknown or missing option, missing or empty source, names or sizes of a pair that do not match.
    """

    def __init__(self, opt):
        self.opt = opt
        unknown = sorted(set(opt) - set(OWN_OPTIONS) - set(BASICSR_OPTIONS))
        if unknown:
            raise InputError(f"datasets:{opt['phase']}: unknown option {', '.join(unknown)}; "
                             f"PairedUnpairedDataset knows {', '.join(OWN_OPTIONS)}.")
        self.is_train = opt['phase'] == 'train'
        self.stores = {stream: self._open(stream) for stream in ('gt', 'lq', 'real', 'ref')}
        self.degrade = build_degradation(opt['degradation']) if opt.get('degradation') else None
        self.enlarge = Range(f"datasets:{opt['phase']}:enlarge", opt.get('enlarge', 1), 1)
        self._check_streams()
        self.pairs = self._pair_up()
        self.seed = torch.initial_seed()
        self.stream = None
        self.small_ones_told = False
        self.broken = {}  # what was skipped -> how often, in this process
        if opt.get('on_error', 'stop') not in ('stop', 'skip'):
            raise InputError(f"datasets:{opt['phase']}:on_error is {opt['on_error']!r}; it must be stop or skip.")
        for flag in ('use_hflip', 'use_rot'):
            if not isinstance(opt.get(flag, True), bool):
                raise InputError(f"datasets:{opt['phase']}:{flag} is {opt[flag]!r}; it must be true or false.")
        if self.is_train:
            self._check_length()
        else:
            self.names = self._names()

    def _open(self, stream):
        option = f'dataroot_{stream}'
        return open_images(self.opt[option], option) if self.opt.get(option) else None

    def _check_streams(self):
        where = f"datasets:{self.opt['phase']}"
        gt, lq = self.stores['gt'], self.stores['lq']
        if lq and self.degrade:
            raise InputError(f'{where}: give dataroot_lq or degradation, not both.')
        if not lq and not self.degrade:
            raise InputError(f'{where}: give dataroot_lq, or degradation to make lq from dataroot_gt.')
        if lq and self.enlarge.high > 1:
            raise InputError(f'{where}: enlarge needs degradation; with dataroot_lq it would enlarge the noise, too.')
        if self.enlarge.high > 1 and not self.is_train:
            raise InputError(f'{where}: enlarge is for training; validation and test images stay as they are.')
        if not gt and (self.is_train or self.degrade):
            raise InputError(f'{where}: dataroot_gt is missing.')
        if self.is_train and not self.opt.get('gt_size'):
            raise InputError(f'{where}: gt_size, the side of a training patch, is missing.')
        if self.opt.get('scale', 1) != 1:
            raise InputError(f"scale: {self.opt['scale']} is super-resolution; this project restores at scale 1.")

    def _pair_up(self):
        """List of (gt key, lq key); either is None where the stream is missing."""
        gt, lq = self.stores['gt'], self.stores['lq']
        if gt is None:
            return [(None, key) for key in lq.keys]
        if lq is None:
            return [(key, None) for key in gt.keys]
        template = self.opt.get('filename_tmpl') or '{}'
        try:
            template.format('')
        except (AttributeError, IndexError, KeyError, ValueError) as error:
            raise InputError(f'filename_tmpl is {template!r}; it must be text with one {{}}, in quotes, which stands '
                             "for the name of the gt: '{}_noisy'.") from error
        wanted = {(number, template.format(key)): (number, key) for number, key in gt.keys}
        missing, surplus = sorted(set(wanted) - set(lq.keys)), sorted(set(lq.keys) - set(wanted))
        if missing or surplus:
            example = f'no lq for gt {wanted[missing[0]][1]}' if missing else f'no gt for lq {surplus[0][1]}'
            raise InputError(f'dataroot_gt has {len(gt.keys)} images and dataroot_lq {len(lq.keys)}; {len(missing)} gt '
                             f'and {len(surplus)} lq are without partner ({example}). Names must match but for the '
                             'extension and filename_tmpl.')
        return [(wanted[key], key) for key in sorted(wanted)]

    def _names(self):
        """What results are saved as: the images' names; where two are alike, after the number of the source, or of all.
        """
        sources, names = zip(*[lq or gt for gt, lq in self.pairs], strict=True)
        names = plain = [name.replace('/', '_') for name in names]
        for numbers in (sources, range(len(names))):
            if len(set(names)) < len(names):
                names = [f'{number}_{name}' for number, name in zip(numbers, plain, strict=True)]
        return names

    def _check_length(self):
        samples = math.ceil(len(self) * self.opt.get('dataset_enlarge_ratio', 1) / get_dist_info()[1])
        batch = self.opt.get('batch_size_per_gpu', 1)
        if samples < batch:
            raise InputError(f'datasets:train: {samples} samples a process do not fill one batch of {batch}; raise '
                             'dataset_enlarge_ratio or lower batch_size_per_gpu.')

    def __len__(self):
        return len(self.pairs)

    def __getitem__(self, index):
        rng = self._generator(index)
        if not self.is_train or self.opt.get('on_error') != 'skip':
            return self._item(index, rng)
        for _ in range(SKIPS):
            try:
                return self._item(index, rng)
            except InputError as error:
                self._tell(error)
                index = rng.integers(len(self))
        raise InputError(f'{SKIPS} images in a row could not be used, the last one: {next(reversed(self.broken))}')

    def _tell(self, error):
        """Each broken image once a process."""
        if str(error) not in self.broken:
            get_root_logger().warning(f'Skipped, the {len(self.broken) + 1}. in this process: {error}')
        self.broken[str(error)] = self.broken.get(str(error), 0) + 1

    def _tell_of_small_images(self):
        """Once a process, and of several that read in the first."""
        worker = get_worker_info()
        if not self.small_ones_told and (worker is None or worker.id == 0):
            get_root_logger().warning(f"Images smaller than a patch (gt_size {self.opt['gt_size']}) are extended by "
                                      'their mirror image.')
        self.small_ones_told = True

    def _item(self, index, rng):
        gt_key, lq_key = self.pairs[index]
        images = {'gt': self._read('gt', gt_key), 'lq': self._read('lq', lq_key)}
        images = {stream: image for stream, image in images.items() if image is not None}
        if len(images) == 2 and images['gt'].shape != images['lq'].shape:
            (h, w, _), (lq_h, lq_w, _) = images['gt'].shape, images['lq'].shape
            raise InputError(f"{self.stores['lq'].location(lq_key)} is {lq_w}x{lq_h} but "
                             f"{self.stores['gt'].location(gt_key)} is {w}x{h}; a pair must be of equal size.")
        if self.is_train:
            images = self._augment(images, rng, self.enlarge(rng) if self.enlarge.high > 1 else 1)
            for stream in ('real', 'ref'):
                if store := self.stores[stream]:
                    key = store.keys[rng.integers(len(store.keys))]
                    images.update(self._augment({stream: store.read(key)}, rng))
        item = {stream: torch.from_numpy(to_float(_planes(image))) for stream, image in images.items()}
        if self.degrade:
            degraded = self.degrade(to_float(np.ascontiguousarray(images['gt'])), rng)
            item['lq'] = torch.from_numpy(_planes(degraded))
        if not self.is_train:
            item['lq_path'] = f'{self.names[index]}.png'  # BasicSR saves under the last part, less an extension
        return item

    def _read(self, stream, key):
        return None if key is None else self.stores[stream].read(key)

    def _generator(self, index):
        """The random generator of one item."""
        if not self.is_train:
            return np.random.default_rng(int(index))
        if hasattr(index, 'draw'):
            return np.random.default_rng([self.seed % 2**63, *index.draw])
        worker = get_worker_info()
        owner = worker.seed if worker else None  # differs between ranks, workers and epochs
        if self.stream is None or owner != self.stream_owner:
            self.stream, self.stream_owner = np.random.default_rng((owner or torch.initial_seed()) % 2**63), owner
        return self.stream

    def _augment(self, images, rng, enlarge=1):
        """One crop, enlarged, and one of the eight flips/rotations, the same for all ``images``."""
        side = self.opt['gt_size']
        size = max(1, round(side / enlarge))
        height, width = next(iter(images.values())).shape[:2]
        if min(height, width) < size:
            self._tell_of_small_images()
            pad = ((0, max(0, size - height)), (0, max(0, size - width)), (0, 0))
            images = {stream: np.pad(image, pad, mode='symmetric') for stream, image in images.items()}
            height, width = max(height, size), max(width, size)
        top, left = rng.integers(height - size + 1), rng.integers(width - size + 1)
        flip_x = self.opt.get('use_hflip', True) and rng.integers(2)
        flip_y, transpose = (rng.integers(2), rng.integers(2)) if self.opt.get('use_rot', True) else (0, 0)

        def transform(image):
            patch = image[top:top + size, left:left + size].copy()  # row by row; turning it first would be slower
            if size != side:
                patch = cv2.resize(patch, (side, side), interpolation=cv2.INTER_CUBIC)
            patch = patch[:, ::-1] if flip_x else patch
            patch = patch[::-1] if flip_y else patch
            return patch.transpose(1, 0, 2) if transpose else patch

        return {stream: transform(image) for stream, image in images.items()}


def _planes(image):
    """(H, W, 3) to contiguous (3, H, W)."""
    return np.ascontiguousarray(image.transpose(2, 0, 1))
