"""PairedUnpairedDataset and ResumableSampler. Pixels of most images tell their own place: see ``position_image``."""
import copy
import pickle
from os import path as osp

import cv2
import numpy as np
import pytest
import torch
from basicsr.data import build_dataloader, build_dataset
from basicsr.data.data_sampler import EnlargedSampler
from basicsr.utils.lmdb_util import make_lmdb_from_imgs
from scipy import stats

from noiseda_basicsr.sampler import ResumableSampler, SampleIndex
from noiseda_data import paired_unpaired_dataset
from noiseda_data.lmdb_writer import create_lmdb

BLIND = {'type': 'awgn', 'sigma': [0, 75]}


def build(phase='train', **options):
    return build_dataset({'name': 'x', 'type': 'PairedUnpairedDataset', 'phase': phase, 'gt_size': 8, **options})


def position_image(height, width, number):
    """Red is the row, green the column, blue the number of the image."""
    rows, columns = np.indices((height, width))
    return np.stack([rows, columns, np.full_like(rows, number)], axis=-1).astype(np.uint8)


def locate(patch):
    """(image number, top, left, which of the eight views); fails where the patch is no crop of a position image."""
    pixels = to_bytes(patch)
    top, left, number = pixels.min(axis=(0, 1))
    crop = position_image(*pixels.shape[:2], number) + np.array([top, left, 0], np.uint8)
    views = [np.rot90(side, turns) for side in (crop, crop[:, ::-1]) for turns in range(4)]
    (view,) = [number for number, candidate in enumerate(views) if np.array_equal(candidate, pixels)]
    return int(number), int(top), int(left), view


def to_bytes(tensor):
    assert tensor.dtype == torch.float32
    return (tensor.numpy().transpose(1, 2, 0) * 255).round().astype(np.uint8)


def draws(dataset, epoch, places):
    """Items as this project's sampler asks for them."""
    return [dataset[SampleIndex(place % len(dataset), (epoch, place))] for place in range(places)]


@pytest.fixture
def position_folder(image_folder):
    def make(name, count=3, size=(20, 24), first=0):
        return image_folder(name, {f'{n:03d}.png': position_image(*size, first + n) for n in range(count)})

    return make


# ---------------------------------------------------------------------- sources


def as_our_lmdb(folder):
    create_lmdb(folder, f'{folder}.lmdb')
    return f'{folder}.lmdb'


def as_basicsr_lmdb(folder):
    keys = ['000', '001', '002']
    make_lmdb_from_imgs(folder, f'{folder}.lmdb', [f'{key}.png' for key in keys], keys, map_size=2**22)
    return f'{folder}.lmdb'


@pytest.mark.parametrize('store', [str, as_our_lmdb, as_basicsr_lmdb])
def test_every_store_gives_the_pixels_that_were_written(pair_folders, store):
    gt, lq = pair_folders(3)
    dataset = build('val', dataroot_gt=store(gt), dataroot_lq=store(lq))
    assert len(dataset) == 3
    for number, item in enumerate(dataset):
        assert item.pop('lq_path') == f'{number:03d}.png'
        for stream, folder in {'gt': gt, 'lq': lq}.items():
            written = cv2.imread(osp.join(folder, f'{number:03d}.png'))[..., ::-1]
            np.testing.assert_array_equal(to_bytes(item.pop(stream)), written)
        assert not item


def test_sources_joined_by_semicolons_keep_their_own_partners(position_folder):
    gt = f"{position_folder('gt_a', 2)}; {as_our_lmdb(position_folder('gt_b', 3, first=50))}"
    lq = f"{as_our_lmdb(position_folder('lq_a', 2, first=100))};{position_folder('lq_b', 3, first=150)}"
    items = list(build('val', dataroot_gt=gt, dataroot_lq=lq))
    assert [(locate(item['gt'])[0], locate(item['lq'])[0]) for item in items] == [
        (0, 100), (1, 101), (50, 150), (51, 151), (52, 152)]


def test_filename_template_and_subfolders(image_folder):
    gt = image_folder('gt', {f'{scene}/1.png': position_image(9, 9, n) for n, scene in enumerate('ab')})
    lq = image_folder('lq', {f'{scene}/1_noisy.bmp': position_image(9, 9, n) for n, scene in enumerate('ab')})
    dataset = build('val', dataroot_gt=gt, dataroot_lq=lq, filename_tmpl='{}_noisy')
    assert [item['lq_path'] for item in dataset] == ['a_1_noisy.png', 'b_1_noisy.png']
    assert all(torch.equal(item['gt'], item['lq']) for item in dataset)


GREY, COLOUR = np.full((9, 9), 70), np.arange(9 * 9 * 3).reshape(9, 9, 3)


@pytest.mark.parametrize(('pixels', 'expected'), [
    (GREY.astype(np.uint8), np.repeat(GREY[..., None] / 255, 3, axis=-1)),
    ((GREY * 257 + 1).astype(np.uint16), np.repeat((GREY[..., None] * 257 + 1) / 65535, 3, axis=-1)),
    ((COLOUR * 256 + 3).astype(np.uint16), (COLOUR * 256 + 3) / 65535),
    (np.dstack([COLOUR[..., ::-1], GREY]).astype(np.uint8), COLOUR / 255),
], ids=['grey', 'grey16', 'colour16', 'alpha'])
def test_pixel_formats(image_folder, pixels, expected):
    dataset = build('val', dataroot_lq=image_folder('lq', {'a.png': pixels}), dataroot_gt=None)
    np.testing.assert_allclose(dataset[0]['lq'].permute(1, 2, 0), expected, rtol=1e-6)


def test_validation_gives_whole_images_with_or_without_gt(pair_folders):
    gt, lq = pair_folders(2)
    assert {key: getattr(value, 'shape', value) for key, value in build('test', dataroot_lq=lq)[1].items()} == {
        'lq': (3, 40, 48), 'lq_path': '001.png'}
    assert set(build('val', dataroot_gt=gt, dataroot_lq=lq)[0]) == {'gt', 'lq', 'lq_path'}


def test_validation_noise_is_the_same_every_time(image_folder):
    gt = image_folder('gt', {name: np.full((8, 8, 3), 128, np.uint8) for name in ('a.png', 'b.png')})
    first, again = ([item['lq'] for item in build('val', dataroot_gt=gt, degradation=BLIND)] for _ in range(2))
    torch.manual_seed(1)
    other_seed = [item['lq'] for item in build('val', dataroot_gt=gt, degradation=BLIND)]
    assert torch.equal(first[0], again[0]) and torch.equal(first[0], other_seed[0])
    assert not torch.equal(first[0], first[1])


# ---------------------------------------------------------------------- crops, flips and partners


def test_pair_stays_aligned_while_real_and_ref_are_drawn_by_themselves(position_folder):
    dataset = build(
        dataroot_gt=position_folder('gt'), dataroot_lq=position_folder('lq', first=100),
        dataroot_real=position_folder('real'), dataroot_ref=position_folder('ref'))
    gt, lq, real, ref = (np.array([locate(item[stream]) for item in draws(dataset, 0, 600)])
                         for stream in ('gt', 'lq', 'real', 'ref'))
    np.testing.assert_array_equal(lq, gt + [100, 0, 0, 0])
    for one, two in ((gt, real), (gt, ref), (real, ref)):
        equal = (one == two).mean(axis=0)
        expected = 1 / np.array([3, 20 - 8 + 1, 24 - 8 + 1, 8])
        assert (np.abs(equal - expected) < 4 * np.sqrt(expected / 600)).all()


def test_crops_are_uniform_from_the_first_row_to_the_last(position_folder):
    dataset = build(dataroot_gt=position_folder('gt', 1), dataroot_lq=position_folder('lq', 1))
    _, top, left, view = np.array([locate(item['gt']) for item in draws(dataset, 0, 1500)]).T
    for drawn, choices in ((top, 20 - 8 + 1), (left, 24 - 8 + 1), (view, 8)):
        counts = np.bincount(drawn)
        assert len(counts) == choices
        assert stats.chisquare(counts).pvalue > 0.001


@pytest.mark.parametrize(('flip', 'rotate', 'views'), [
    (True, True, 8), (True, False, 2), (False, True, 4), (False, False, 1)])
def test_flips_and_rotations_as_asked(position_folder, flip, rotate, views):
    folder = position_folder('gt', 1, size=(8, 8))  # side equals the patch
    dataset = build(dataroot_gt=folder, dataroot_lq=folder, dataroot_real=folder, use_hflip=flip, use_rot=rotate)
    items = draws(dataset, 0, 100)
    for stream in ('gt', 'real'):
        seen = {locate(item[stream]) for item in items}
        assert len(seen) == views
        assert {place[:3] for place in seen} == {(0, 0, 0)}


@pytest.mark.parametrize('size', [(5, 3), (1, 1), (3, 8), (8, 7)])
def test_images_smaller_than_the_patch_are_reflected_up(position_folder, size, caplog):
    folder = position_folder('gt', 1, size=size)
    data_set = build(dataroot_gt=folder, dataroot_lq=folder, use_hflip=False, use_rot=False)
    item = [data_set[0] for _ in range(3)][0]
    assert caplog.text.count('Images smaller than a patch (gt_size 8) are extended by their mirror image.') == 1

    def mirrored(index, length):
        index %= 2 * length
        return index if index < length else 2 * length - 1 - index

    expected = [[[mirrored(y, size[0]), mirrored(x, size[1]), 0] for x in range(8)] for y in range(8)]
    np.testing.assert_array_equal(to_bytes(item['gt']), expected)
    assert torch.equal(item['gt'], item['lq'])


@pytest.mark.parametrize(('enlarge', 'low', 'high'), [(3, 3, 3), ([1, 3], 1, 3)])
def test_clean_crops_are_enlarged_before_they_are_degraded(image_folder, enlarge, low, high):
    """A crop enlarged by s of an image that rises by 4 a pixel rises by 4 / s."""
    rows, columns = np.indices((60, 60))
    folder = image_folder('ramp', {'000.png': np.stack([4 * rows, 4 * columns, 0 * rows], axis=-1).astype(np.uint8)})
    dataset = build(dataroot_gt=folder, dataroot_real=folder, gt_size=24, enlarge=enlarge,
                    degradation={'type': 'awgn', 'sigma': 0})
    items = draws(dataset, 0, 60)

    def slope(patch):  # away from the reflected margins
        inner = patch.numpy()[:2, 4:-4, 4:-4] * 255
        return max(abs(np.diff(inner.mean(axis=axis), axis=1)).mean(axis=1).max() for axis in (1, 2))

    factors = np.array([4 / slope(item['gt']) for item in items])
    assert factors.min() == pytest.approx(low, rel=0.05) and factors.max() == pytest.approx(high, rel=0.05)
    assert (factors.std() > 0.4) == (low < high)
    assert all(slope(item['real']) == pytest.approx(4, abs=1e-3) for item in items)
    assert all(torch.equal(item['lq'], item['gt']) for item in items)


# ---------------------------------------------------------------------- degradations


def test_awgn_is_gaussian_unclipped_and_of_uniform_sigma(image_folder):
    gt = image_folder('gt', {'black.png': np.zeros((40, 40, 3), np.uint8)})
    noise = torch.stack([item['lq'] - item['gt'] for item in draws(
        build(dataroot_gt=gt, degradation=BLIND, gt_size=32), 0, 200)]).numpy()
    assert (noise < 0).mean() == pytest.approx(0.5, abs=0.01)
    sigma = noise.std(axis=(1, 2, 3), keepdims=True)
    assert stats.kstest(sigma.ravel(), stats.uniform(0, 75 / 255).cdf).pvalue > 0.01
    white = noise / sigma
    assert stats.kstest(white.ravel()[::10], 'norm').pvalue > 0.001
    for shift in ((0, 1, 0), (0, 0, 1), (1, 0, 0)):  # neighbours and channels are independent
        correlation = (white * np.roll(white, shift, axis=(1, 2, 3))).mean()
        assert abs(correlation) < 4 / np.sqrt(white.size)


def test_awgn_of_one_sigma(image_folder):
    gt = image_folder('gt', {'a.png': np.full((64, 64, 3), 250, np.uint8)})
    item = build('val', dataroot_gt=gt, degradation={'type': 'awgn', 'sigma': 25})[0]
    noise = item['lq'] - item['gt']
    assert noise.std() == pytest.approx(25 / 255, rel=0.03)
    assert item['lq'].max() > 1


def test_correlated_noise_keeps_the_mean_and_vanishes_at_black_and_white(image_folder):
    levels = {'black': 0, 'grey': 128, 'white': 255}
    gt = image_folder('gt', {f'{name}.png': np.full((96, 96, 3), level, np.uint8) for name, level in levels.items()})
    items = build('val', dataroot_gt=gt, degradation={'type': 'correlated_noise', 'sigma': 20, 'quality': 100})
    black, grey, white = ((item['lq'] - item['gt']).numpy() for item in items)
    assert not black.any() and not white.any()
    assert abs(grey.mean()) < 0.005
    weights = np.array([0.299, 0.587, 0.114])  # JPEG halves the resolution of chroma, so luma is measured
    luma = np.tensordot(weights, grey, 1)
    assert luma.std() == pytest.approx(20 / 255 * np.linalg.norm(weights), rel=0.05)
    assert np.corrcoef(luma[:, 1:].ravel(), luma[:, :-1].ravel())[0, 1] > 0.3


# ---------------------------------------------------------------------- randomness


@pytest.fixture
def big(position_folder):
    """Options of a set with so many crops (93 x 93 x 8) that two equal ones are no accident."""
    return {'dataroot_gt': position_folder('gt', 4, size=(100, 100)),
            'dataroot_real': position_folder('real', 5, size=(100, 100)), 'degradation': BLIND}


def same(one, two):
    return all(torch.equal(one[key], two[key]) for key in ('gt', 'lq', 'real'))


def test_an_item_follows_from_seed_epoch_and_place(big):
    torch.manual_seed(7)
    dataset = build(**big)
    item = dataset[SampleIndex(2, (1, 5))]
    torch.rand(9)  # neither torch's generator nor other items matter
    dataset[SampleIndex(0, (1, 4))]
    assert same(item, dataset[SampleIndex(2, (1, 5))])
    torch.manual_seed(7)
    assert same(item, build(**big)[SampleIndex(2, (1, 5))])
    torch.manual_seed(8)
    others = [dataset[SampleIndex(2, (2, 5))], dataset[SampleIndex(2, (1, 6))], build(**big)[SampleIndex(2, (1, 5))]]
    for other in others:
        assert not any(torch.equal(item[key], other[key]) for key in ('gt', 'lq', 'real'))


@pytest.mark.parametrize('rank', [0, 1])
def test_real_partner_changes_with_the_epoch_on_every_rank(big, rank):
    dataset = build(**big)
    sampler = ResumableSampler(dataset, num_replicas=2, rank=rank)
    partners = {}
    for epoch in range(12):
        sampler.set_epoch(epoch)
        for index in sampler:
            partners.setdefault(int(index), set()).add(locate(dataset[index]['real'])[0])
    assert set(partners) == {0, 1, 2, 3}
    assert all(len(seen) > 1 for seen in partners.values())


@pytest.mark.parametrize('sampler', [ResumableSampler, EnlargedSampler])
def test_ranks_draw_differently(big, sampler):
    crops = []
    for rank in range(2):
        torch.manual_seed(3 + rank)  # as BasicSR seeds its ranks
        dataset = build(**big)
        crops += [locate(dataset[index]['real']) for index in sampler(dataset, 2, rank, ratio=2)]
    assert len(set(crops)) == len(crops) == 8


def stock_epochs(dataset, workers, epochs=3):
    """What BasicSR's own sampler and loader give; the run reseeds torch every step, as NoiseDAModel does."""
    sampler = EnlargedSampler(dataset, 1, 0, ratio=3)
    options = {'phase': 'train', 'batch_size_per_gpu': 2, 'num_worker_per_gpu': workers}
    loader = build_dataloader(dataset, options, num_gpu=0, sampler=sampler, seed=0)
    items, step = [], 0
    for epoch in range(epochs):
        sampler.set_epoch(epoch)
        for batch in loader:
            items += [{key: value[i] for key, value in batch.items()} for i in range(len(batch['gt']))]
            step += 1
            torch.manual_seed(step)
    return items


@pytest.mark.parametrize('workers', [0, 2])
def test_stock_loader_never_repeats_a_crop(big, workers):
    items = stock_epochs(build(**big), workers)
    assert len(items) == 3 * 12
    for stream in ('gt', 'real'):
        crops = [locate(item[stream]) for item in items]
        assert len(set(crops)) == len(crops)


def test_stock_loader_never_repeats_a_crop_after_a_look_at_the_data(big):
    dataset = build(**big)
    dataset[0]
    crops = [locate(item['gt']) for item in stock_epochs(dataset, 2)]
    assert len(set(crops)) == len(crops)


def test_number_of_workers_does_not_change_the_items(big):
    dataset = build(**big)
    loaders = [torch.utils.data.DataLoader(dataset, 2, sampler=ResumableSampler(dataset, 1, 0, ratio=2), num_workers=n)
               for n in (0, 2)]
    for alone, shared in zip(*loaders, strict=True):
        assert same(alone, shared)


# ---------------------------------------------------------------------- the sampler


@pytest.mark.parametrize(('images', 'replicas', 'ratio'), [(7, 1, 1), (7, 2, 1), (5, 3, 2)])
def test_sampler_keeps_basicsrs_order_and_numbers_every_sample_of_an_epoch(images, replicas, ratio):
    data = list(range(images))
    for epoch in (0, 3):
        numbers = []
        for rank in range(replicas):
            ours, stock = (kind(data, replicas, rank, ratio) for kind in (ResumableSampler, EnlargedSampler))
            ours.set_epoch(epoch)
            stock.set_epoch(epoch)
            assert list(ours) == list(stock)
            assert len(ours) == len(stock)
            assert {index.draw[0] for index in ours} == {epoch}
            numbers += [index.draw[1] for index in ours]
        assert sorted(numbers) == list(range(len(numbers)))


def test_sampler_skips_what_was_seen_of_the_epoch_it_resumes():
    whole, resumed = (ResumableSampler(list(range(10)), 2, 1, ratio=2) for _ in range(2))
    resumed.resume_epoch, resumed.samples_seen = 4, 6
    for epoch, seen in ((4, 6), (5, 0)):
        whole.set_epoch(epoch)
        resumed.set_epoch(epoch)
        expected = list(whole)[seen:]
        assert list(resumed) == expected
        assert [index.draw for index in resumed] == [index.draw for index in expected]


@pytest.mark.parametrize('duplicate', [lambda index: pickle.loads(pickle.dumps(index)), copy.copy, copy.deepcopy])
def test_sample_index_is_an_index_that_survives_copies(duplicate):
    index = duplicate(SampleIndex(2, (5, 11)))
    assert 'abc'[index] == 'c'
    assert (index, index.draw) == (2, (5, 11))


def test_length_check_counts_what_the_sampler_gives(pair_folders, monkeypatch):
    gt, lq = pair_folders(3)
    monkeypatch.setattr(paired_unpaired_dataset, 'get_dist_info', lambda: (0, 2))
    dataset = build(dataroot_gt=gt, dataroot_lq=lq, batch_size_per_gpu=2)
    assert len(EnlargedSampler(dataset, 2, 0)) == 2
