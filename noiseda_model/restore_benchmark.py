"""What restoring photos costs, and what tiles leave of their seams; see scripts/benchmark.py restore."""
import time
from os import path as osp
from statistics import median

import numpy as np
import pyvips
import torch

from noiseda_data.photo import Photo
from noiseda_data.store import to_float
from noiseda_model.benchmark import highest_resident
from noiseda_model.inference import restore
from noiseda_model.restore_command import restore_files
from noiseda_model.restorer import Restorer


def make_photo(source, megapixels, path):
    """Write a 4:3 photo of any size that shows another one again and again, mirrored at its borders."""
    photo = pyvips.Image.new_from_file(source)
    width = round((megapixels * 1e6 * 4 / 3)**0.5)
    height = round(width * 3 / 4)
    twice = photo.join(photo.fliphor(), 'horizontal')
    block = twice.join(twice.flipver(), 'vertical')
    tiled = block.replicate(width // block.width + 1, height // block.height + 1)
    tiled.crop(0, 0, width, height).write_to_file(path)


@torch.no_grad()
def seam_errors(weights, photo, tile, overlaps, option_file=None):
    """Difference to the photo restored in one piece, in grey levels of 255.

    Args:
        weights, option_file (str): See :class:`noiseda_model.restorer.Restorer`.
        photo (str): File.
        tile (int), overlaps (list[int])

    Returns:
        list[tuple]: tile, overlap, largest and mean absolute difference.
    """
    pixels = Photo(photo).read()
    restorer = Restorer(weights, option_file)
    image = torch.from_numpy(np.ascontiguousarray(to_float(pixels).transpose(2, 0, 1)))[None].to(restorer.device)
    multiple = restorer.rule['multiple']
    whole = restore(restorer.net, image, multiple)
    rows = []
    for overlap in overlaps:
        difference = 255 * (restore(restorer.net, image, multiple, tile, overlap) - whole).abs()
        rows.append((tile, overlap, difference.max().item(), difference.mean().item()))
    return rows


def peak_memory(weights, source, target, options):
    """Peak memory in bytes of a process that restores one photo, all libraries included; call it in a fresh one."""
    Restorer(weights, **options).file(source, target)
    return highest_resident()


def throughput(weights, photos, folder, options, rounds=3):
    """Megapixels/s of files restored to files, and of the bare network on tensors of the shape of their tiles.

    The two take turns. What the pixels that tiles share cost counts against the files.

    Args:
        weights (str)
        photos (list[str]): Of equal size.
        folder (str): For the results.
        options (dict): Of Restorer.
        rounds (int): Turns of each.

    Returns:
        tuple: Medians over the rounds: of the files, of the network, of their ratio.
    """
    restorer, shapes = Restorer(weights, **options), set()
    network = restorer._network
    restorer._network = lambda tiles, **options: shapes.add(tuple(tiles.shape)) or network(tiles, **options)
    files = {osp.join(folder, f'{number}.jpg'): photo for number, photo in enumerate(photos)}
    pixels = len(photos) * Photo(photos[0]).width * Photo(photos[0]).height / 1e6
    rates = []
    for _ in range(rounds):
        start = time.perf_counter()
        restore_files(restorer, files)
        middle = time.perf_counter()
        tiles = torch.rand(max(shapes), device=restorer.device)
        done = 0
        with torch.no_grad():
            while done < pixels:
                network(tiles).sum().item()  # waits for the device
                done += tiles.shape[0] * tiles.shape[2] * tiles.shape[3] / 1e6
        rates.append((pixels / (middle - start), done / (time.perf_counter() - middle)))
    return (*(median(rate) for rate in zip(*rates, strict=True)), median(files / bare for files, bare in rates))
