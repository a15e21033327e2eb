"""Several restored versions of the same test photos, side by side: figures and a picture.

Images here are uint8 arrays (H, W, 3), RGB. A figure is BasicSR's, on RGB, after clipping and rounding to 8 bit; SSIM
has the 11x11 Gaussian window and is averaged over channels.
"""

import cv2
import numpy as np
from basicsr.metrics import calculate_metric

from noiseda_basicsr import InputError
from noiseda_data.store import open_images

METRICS = {  # as in an option file's val:metrics
    'PSNR': {'type': 'calculate_psnr', 'crop_border': 0},
    'SSIM': {'type': 'calculate_ssim', 'crop_border': 0},
    'LPIPS': {'type': 'calculate_lpips', 'better': 'lower'},
}
NO_TRUTH = {'NIQE': {'type': 'calculate_niqe', 'crop_border': 0, 'better': 'lower'}}  # they look at the image alone


def compare(lq_root, gt_root, restorers, metrics=('PSNR', 'SSIM')):
    """Restore every test photo with every network and measure.

    Args:
        lq_root, gt_root (str): Folders or LMDBs with equal names.
        restorers (dict): Name -> :class:`~noiseda_model.restorer.Restorer` (any function of an image).
        metrics (Iterable[str]): Of :data:`METRICS`.

    Returns:
        tuple: Means {version: {metric: float}}, and per photo {name: {version: (image, {metric: float})}}; versions are
        'degraded', the restorers, and 'truth' (without figures; photos only).
    """
    lq, gt = open_images(lq_root, '--lq'), open_images(gt_root, '--gt')
    if set(lq.keys) != set(gt.keys):
        odd = sorted(set(lq.keys) ^ set(gt.keys))[0][1]
        raise InputError(f'{lq_root} and {gt_root} hold different names, {odd} for example; they must match.')
    photos = {}
    for key in lq.keys:
        truth, degraded = gt.read(key), lq.read(key)
        if truth.shape != degraded.shape:
            raise InputError(f'{lq.location(key)} and {gt.location(key)} differ in size; a pair must be of equal size.')
        versions = {'degraded': degraded, **{name: restorer(degraded) for name, restorer in restorers.items()}}
        blocks = {metric: METRICS[metric] for metric in metrics}
        photos[key[1]] = {name: (image, measure(image, truth, blocks)) for name, image in versions.items()}
        photos[key[1]]['truth'] = (truth, {})
    means = {
        name: {metric: float(np.mean([photo[name][1][metric] for photo in photos.values()])) for metric in metrics}
        for name in ['degraded', *restorers]
    }
    return means, photos


def measure(image, truth, metrics):
    """Figures of one image.

    Args:
        image (ndarray): (H, W, 3), uint8, RGB.
        truth (ndarray | None): Its ground truth, of equal shape; None for metrics that need none.
        metrics (dict): Name -> block as in an option file's ``val:metrics``.

    Returns:
        dict: Name -> float.
    """
    data = {'img': image[..., ::-1]}  # BasicSR works in BGR
    if truth is not None:
        data['img2'] = truth[..., ::-1]
    return {name: float(calculate_metric(data, block)) for name, block in metrics.items()}


def markdown_table(means):
    """Means of :func:`compare` as a Markdown table."""
    metrics = list(next(iter(means.values())))
    lines = ['| | ' + ' | '.join(metrics) + ' |', '|---|' + '---|' * len(metrics)]
    for name, values in means.items():
        figures = [f'{values[metric]:.2f}' if metric == 'PSNR' else f'{values[metric]:.4f}' for metric in metrics]
        lines.append(f'| {name} | ' + ' | '.join(figures) + ' |')
    return '\n'.join(lines)


def comparison_picture(photos, names, crop=256, caption=24):
    """One row a photo, one column a version, with its PSNR.

    Args:
        photos (dict): Of :func:`compare`.
        names (list[str]): Photos to show.
        crop (int): Side of the shown centre crop.
        caption (int): Height of the line above each picture.

    Returns:
        ndarray: RGB.
    """
    return np.concatenate([
        np.concatenate([_captioned(version, *photos[name][version], crop, caption) for version in photos[name]], axis=1)
        for name in names
    ])


def _captioned(version, image, figures, crop, caption):
    height, width = image.shape[:2]
    top, left = max(0, (height - crop) // 2), max(0, (width - crop) // 2)
    patch = image[top:top + crop, left:left + crop]
    cell = np.full((crop + caption, crop + 4, 3), 255, np.uint8)
    cell[caption:caption + patch.shape[0], :patch.shape[1]] = patch
    text = f"{version}  {figures['PSNR']:.2f} dB" if 'PSNR' in figures else version
    cv2.putText(cell, text, (4, caption - 7), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (0, 0, 0), 1, cv2.LINE_AA)
    return cell
