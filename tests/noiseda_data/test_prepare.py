"""noiseda-prepare: every data set in its official layout, whole and broken; what a stopped run leaves; the messages."""
import os
import re
import shutil
from collections import namedtuple
from pathlib import Path

import cv2
import numpy as np
import pytest
import scipy.io
from cli import ROOT, run

from noiseda_basicsr import InputError
from noiseda_data import lmdb_writer, prepare
from noiseda_data.layouts import DATASETS, Part, match
from noiseda_data.store import LmdbStore, RawStore, open_one
from tests.noiseda_data.test_real_data import script as make_real_data

SIDE = 8  # stands for 512, and for SIDD's 256

# Data set -> for each part, the files of a few images, stream by stream, and the names they must get.
LAYOUTS = {
    'div2k': [
        (['DIV2K_train_HR/0001.png', 'DIV2K_train_HR/0800.png'], ['0001', '0800']),
        (['DIV2K_valid_HR/0801.png', 'DIV2K_valid_HR/0900.png'], ['0801', '0900']),
    ],
    'flickr2k': [(['Flickr2K/Flickr2K_HR/000001.png', 'Flickr2K/Flickr2K_HR/002650.png'], ['000001', '002650'])],
    'wed': [(['exploration_database_and_code/pristine_images/00001.bmp',
              'exploration_database_and_code/pristine_images/04744.bmp'], ['00001', '04744'])],
    'bsds500': [
        (['BSR/BSDS500/data/images/test/100007.jpg', 'BSR/BSDS500/data/images/train/100075.jpg',
          'BSR/BSDS500/data/images/train/100080.jpg'], ['100007', '100075', '100080']),
        (['BSR/BSDS500/data/images/train/100075.jpg', 'BSR/BSDS500/data/images/train/100080.jpg'],
         ['100075', '100080']),
        (['BSR/BSDS500/data/images/val/101085.jpg', 'BSR/BSDS500/data/images/val/101087.jpg'], ['101085', '101087']),
    ],
    'sidd_medium': [
        (['SIDD_Medium_Srgb/Data/0001_001_S6_00100_00060_3200_L/0001_NOISY_SRGB_010.PNG',
          'SIDD_Medium_Srgb/Data/0001_001_S6_00100_00060_3200_L/0001_NOISY_SRGB_011.PNG',
          'SIDD_Medium_Srgb/Data/0001_001_S6_00100_00060_3200_L/0001_GT_SRGB_010.PNG',
          'SIDD_Medium_Srgb/Data/0001_001_S6_00100_00060_3200_L/0001_GT_SRGB_011.PNG'],
         ['0001_001_S6_00100_00060_3200_L_010', '0001_001_S6_00100_00060_3200_L_011']),
    ],
    'rain13k': [(['train/Rain13K/input/1.jpg', 'train/Rain13K/input/10.jpg',
                  'train/Rain13K/target/1.jpg', 'train/Rain13K/target/10.jpg'], ['1', '10'])],
    'rain100l': [(['test/Rain100L/input/1.png', 'test/Rain100L/input/2.png',
                   'test/Rain100L/target/1.png', 'test/Rain100L/target/2.png'], ['1', '2'])],
    'spa': [
        (['real_world/000/000-1/000-1_0_256.png', 'real_world/000/000-2/000-2_0_256.png',
          'real_world_gt/000/000_0_256.png', 'real_world_gt/000/000_0_256.png'],
         ['000_000-1_0_256', '000_000-2_0_256']),
        (['real_test_1000/rain/000.png', 'real_test_1000/rain/999.png',
          'real_test_1000/gt/000gt.png', 'real_test_1000/gt/999gt.png'], ['000', '999']),
    ],
    'gopro': [
        (['train/GOPR0372_07_00/blur/000047.png', 'train/GOPR0372_07_01/blur/000047.png',
          'train/GOPR0372_07_00/sharp/000047.png', 'train/GOPR0372_07_01/sharp/000047.png'],
         ['GOPR0372_07_00_000047', 'GOPR0372_07_01_000047']),
        (['test/GOPR0384_11_00/blur/000001.png', 'test/GOPR0384_11_00/blur/000002.png',
          'test/GOPR0384_11_00/sharp/000001.png', 'test/GOPR0384_11_00/sharp/000002.png'],
         ['GOPR0384_11_00_000001', 'GOPR0384_11_00_000002']),
    ],
    'realblur_j': [
        ([f'RealBlur-J_ECC_IMCORR_centroid_itensity_ref/scene001/{name}.png'
          for name in ('blur/blur_1', 'blur/blur_10', 'gt/gt_1', 'gt/gt_10')], ['scene001_1', 'scene001_10']),
        ([f'RealBlur-J_ECC_IMCORR_centroid_itensity_ref/scene244_reflect/{name}.png'
          for name in ('blur/blur_1', 'blur/blur_2', 'gt/gt_1', 'gt/gt_2')],
         ['scene244_reflect_1', 'scene244_reflect_2']),
    ],
    'coco': [(['train2017/000000000009.jpg', 'train2017/000000581929.jpg'], ['000000000009', '000000581929'])],
    'polyu': [
        (['OriginalImages/Canon5D2_chair_Real.JPG', 'OriginalImages/SonyA7II_plant_Real.JPG',
          'OriginalImages/Canon5D2_chair_mean.JPG', 'OriginalImages/SonyA7II_plant_mean.JPG'],
         [f'{name}_{number}' for name in ('Canon5D2_chair', 'SonyA7II_plant') for number in range(3)]),
        (['OriginalImages/Canon5D2_bag_Real.JPG', 'OriginalImages/SonyA7II_stair_Real.JPG',
          'OriginalImages/Canon5D2_bag_mean.JPG', 'OriginalImages/SonyA7II_stair_mean.JPG'],
         [f'{name}_{number}' for name in ('Canon5D2_bag', 'SonyA7II_stair') for number in range(3)]),
        (['CroppedImages/Canon5D2_5_160_3200_chair_5_real.JPG', 'CroppedImages/SonyA7II_water_1_real.JPG',
          'CroppedImages/Canon5D2_5_160_3200_chair_5_mean.JPG', 'CroppedImages/SonyA7II_water_1_mean.JPG'],
         ['Canon5D2_5_160_3200_chair_5', 'SonyA7II_water_1']),
    ],
    'cc': [([f'Real_ccnoise_denoised_part/{name}.png'
             for name in ('5dmark3_iso3200_1_real', 'd600_iso3200_2_real', '5dmark3_iso3200_1_mean',
                          'd600_iso3200_2_mean')], ['5dmark3_iso3200_1', 'd600_iso3200_2'])],
}
LISTS = {  # list file -> its lines for the files above
    'spa': {'real_world.txt': ['/real_world/000/000-1/000-1_0_256.png /real_world_gt/000/000_0_256.png',
                               '/real_world/000/000-2/000-2_0_256.png /real_world_gt/000/000_0_256.png']},
    'realblur_j': {
        f'RealBlur_J_{split}_list.txt': [
            f'RealBlur-J_ECC_IMCORR_centroid_itensity_ref/{scene}/gt/gt_{number}.png '
            f'RealBlur-J_ECC_IMCORR_centroid_itensity_ref/{scene}/blur/blur_{number}.png' for number in numbers]
        for split, scene, numbers in (('train', 'scene001', (1, 10)), ('test', 'scene244_reflect', (1, 2)))},
}
Made = namedtuple('Made', 'folder parts content')


def small(part, names):
    """The part as the made folders hold it: few images, small sub-images."""
    return part._replace(images=len(names) // (part.tiles or 1), size=None, crop=part.crop and SIDE)


def write(file, image):
    file.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(file), image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 100])


@pytest.fixture
def download(tmp_path):
    """download(data set) makes its folder. Images are 16x16, each quarter has a grey level of its own."""
    def make(name):
        folder, content = tmp_path / 'download', {}
        for number, file in enumerate(dict.fromkeys(file for files, _ in LAYOUTS[name] for file in files)):
            levels = np.arange(4).reshape(2, 2).repeat(SIDE, 0).repeat(SIDE, 1) * 60 + 4 * number
            content[file] = np.stack([levels] * 3, axis=-1).astype(np.uint8)
            write(folder / file, content[file])
        for file, lines in LISTS.get(name, {}).items():
            (folder / file).write_text('\n'.join(lines) + '\n')
        parts = [small(part, names) for part, (_, names) in zip(DATASETS[name], LAYOUTS[name], strict=True)]
        return Made(str(folder), parts, content)
    return make


def pixels(path):
    store = open_one(path, 'test')
    return {key: store.read(key) for key in store.keys}


def test_every_data_set_is_tested():
    assert {*LAYOUTS, 'sidd_val', 'sidd_benchmark'} == set(DATASETS)


@pytest.mark.parametrize('name', LAYOUTS)
def test_official_layout(name, download, tmp_path, capsys):
    made, target = download(name), tmp_path / 'datasets'
    prepare.prepare(made.parts, made.folder, str(target))
    for part, (files, names) in zip(made.parts, LAYOUTS[name], strict=True):
        images = [files[start:start + len(files) // len(part.streams)]
                  for start in range(0, len(files), len(files) // len(part.streams))]
        for stream, stream_files in zip(part.streams, images, strict=True):
            if stream is None:
                continue
            entries = pixels(str(target / f'{stream}.lmdb'))
            if part.tiles:  # see below
                assert list(entries) == names
                continue
            if part.crop:
                entries = {name: np.vstack([np.hstack([entries.pop(f'{name}_s00{cut}') for cut in row])
                                            for row in ((1, 2), (3, 4))])
                           for name in names} | entries
            assert list(entries) == names
            for name, file in zip(names, stream_files, strict=True):
                np.testing.assert_allclose(entries[name].astype(int), made.content[file], atol=1)  # JPEG
    report = capsys.readouterr().out
    for part in made.parts:
        for stream in filter(None, part.streams):
            assert len(re.findall(rf'{stream}\.lmdb +{part.images} +{part.images} +\d+  ', report)) == 1


def test_streams_pair_by_name_not_by_order(tmp_path):
    folder = tmp_path / 'download'
    for number in (1, 2, 10):  # sorted as text: 1, 10, 2; and the clean names sort otherwise again
        write(folder / f'real_test_1000/rain/{number:03d}.png', np.full((4, 4, 3), number, np.uint8))
        write(folder / f'real_test_1000/gt/{number:03d}gt.png', np.full((4, 4, 3), 100 + number, np.uint8))
    part = DATASETS['spa'][1]._replace(images=3, size=None)
    prepare.prepare([part], str(folder), str(tmp_path))
    rainy, clean = (pixels(str(tmp_path / f'{stream}.lmdb')) for stream in part.streams)
    assert {key: (int(rainy[key][0, 0, 0]), int(clean[key][0, 0, 0])) for key in rainy} == {
        '001': (1, 101), '002': (2, 102), '010': (10, 110)}


def test_the_folder_may_be_any_level_of_the_download(download, tmp_path):
    made = download('div2k')
    for number, folder in enumerate((Path(made.folder).parent, Path(made.folder), Path(made.folder, 'DIV2K_train_HR'))):
        prepare.prepare(made.parts[:1], str(folder), str(tmp_path / f'out{number}'))
        assert len(LmdbStore(str(tmp_path / f'out{number}' / 'DIV2K.lmdb')).keys) == 8


@pytest.mark.parametrize('levels', [1, 2])
def test_sidd_blocks(levels, tmp_path):
    rng = np.random.default_rng(0)
    noisy, gt = (rng.integers(0, 256, (2, 3, SIDE, SIDE, 3), np.uint8) for _ in range(2))
    folder = tmp_path / 'a' / 'b'
    folder.mkdir(parents=True)
    scipy.io.savemat(folder / 'ValidationNoisyBlocksSrgb.mat', {'ValidationNoisyBlocksSrgb': noisy})
    scipy.io.savemat(folder / 'ValidationGtBlocksSrgb.mat', {'ValidationGtBlocksSrgb': gt})
    part = DATASETS['sidd_val'][0]._replace(images=6, size=(SIDE, SIDE))
    prepare.prepare([part], str(folder.parents[levels - 1]), str(tmp_path / 'out'))
    for stream, blocks in {'SIDD_val_noisy': noisy, 'SIDD_val_gt': gt}.items():
        entries = pixels(str(tmp_path / 'out' / f'{stream}.lmdb'))
        assert list(entries) == ['0001_01', '0001_02', '0001_03', '0002_01', '0002_02', '0002_03']
        np.testing.assert_array_equal(entries['0002_03'], blocks[1, 2])
    (folder / 'ValidationGtBlocksSrgb.mat').unlink()
    with pytest.raises(InputError, match='ValidationGtBlocksSrgb.mat is missing'):
        prepare.prepare([part], str(folder), str(tmp_path / 'out2'))


# ------------------------------------------------------------------ broken downloads

BREAKS = {
    'no folder': ('div2k', lambda f: os.rename(f, f + '_moved'), 'download: no such folder'),
    'nothing there': ('div2k', lambda f: [os.rename(f'{f}/{old}', f'{f}/{old}_moved') for old in os.listdir(f)],
                      'nothing of this data set is there; looked for DIV2K_train_HR/0001.png and DIV2K_valid_HR'),
    'wrong count': ('coco', lambda f: os.remove(f'{f}/train2017/000000000009.jpg'),
                    '1 images for COCO, but the complete data set has 2'),
    'missing partner': ('rain13k', lambda f: os.remove(f'{f}/train/Rain13K/target/10.jpg'),
                        r'1 images lack their partner, .*input/10\.jpg for example'),
    'all partners missing': ('cc', lambda f: [os.remove(file) for file in map(str, Path(f).rglob('*_mean.png'))],
                             r'2 images lack their partner, .*_real\.png'),
    'twice': ('flickr2k', lambda f: write(Path(f, 'copy/Flickr2K_HR/000001.png'), np.zeros((4, 4, 3), np.uint8)),
              r'Flickr2K/Flickr2K_HR/000001\.png and copy/Flickr2K_HR/000001\.png are both image 000001'),
    'unreadable': ('wed', lambda f: next(Path(f).rglob('00001.bmp')).write_bytes(b'x'),
                   r'00001\.bmp: cannot be decoded'),
    'pair of two sizes': ('gopro', lambda f: write(Path(f, 'test/GOPR0384_11_00/sharp/000002.png'),
                                                   np.zeros((4, 4, 3), np.uint8)),
                          'GoPro_test_blur.lmdb and .*GoPro_test_sharp.lmdb: image GOPR0384_11_00_000002 differs'),
    'listed file missing': ('realblur_j', lambda f: next(Path(f).rglob('gt_10.png')).unlink(),
                            r'1 images lack their partner, .*blur_10\.png'),
    'all listed files missing': ('spa', lambda f: os.rename(f'{f}/real_world', f'{f}/moved'),
                                 'images lack their partner'),
    'list without its images': ('realblur_j', lambda f: [os.mkdir(f'{f}/lists')] + [
        os.rename(f'{f}/{name}', f'{f}/lists/{name}') for name in LISTS['realblur_j']],
        r'lists/RealBlur_J_train_list.txt: none of its files is there, RealBlur-J_ECC.* Move it, or unpack'),
    'empty list': ('realblur_j', lambda f: Path(f, 'RealBlur_J_train_list.txt').write_text(''),
                   'RealBlur_J_train_list.txt: none of its files is there'),
    'list of other things': ('spa', lambda f: Path(f, 'real_world.txt').write_text('not a pair\n'),
                             "real_world.txt line 1: 'not a pair' is no pair"),
    'list with one column': ('realblur_j', lambda f: Path(f, 'RealBlur_J_test_list.txt').write_text(
        'x/scene001/gt/gt_1.png\n'), 'RealBlur_J_test_list.txt line 1: .* is no pair'),
    'list pairs two images': ('realblur_j', lambda f: Path(f, 'RealBlur_J_train_list.txt').write_text(
        'x/scene001/gt/gt_1.png x/scene001/blur/blur_2.png\n'), 'line 1: its paths name different images'),
    'list repeats': ('realblur_j', lambda f: Path(f, 'RealBlur_J_train_list.txt').write_text(
        2 * (LISTS['realblur_j']['RealBlur_J_train_list.txt'][0] + '\n')), 'line 2: image scene001_1 for the second'),
    'two lists': ('spa', lambda f: [os.mkdir(f'{f}/old'), Path(f, 'old/real_world.txt').write_text('')],
                  'real_world.txt: two list files'),
}


@pytest.mark.parametrize('name', BREAKS)
def test_broken_download(name, download, tmp_path):
    dataset, damage, message = BREAKS[name]
    made = download(dataset)
    damage(made.folder)
    with pytest.raises(InputError, match=message):
        prepare.prepare(made.parts, made.folder, str(tmp_path / 'datasets'))
    if name != 'pair of two sizes':  # seen when both are written
        assert not (tmp_path / 'datasets').exists()


def test_an_incomplete_download_is_taken_on_demand(download, tmp_path, capsys):
    made = download('rain13k')
    os.remove(f'{made.folder}/train/Rain13K/target/10.jpg')
    prepare.prepare(made.parts, made.folder, str(tmp_path), partial=True)
    assert LmdbStore(str(tmp_path / 'Rain13K_rainy.lmdb')).keys == ['1']
    out = capsys.readouterr().out
    assert 'without partner, left out: 10' in out and re.search(r'Rain13K_gt.lmdb +1 +2 +1  16x16  INCOMPLETE', out)
    os.remove(f'{made.folder}/train/Rain13K/target/1.jpg')
    with pytest.raises(InputError, match='no image of .* has its partner'):
        prepare.prepare(made.parts, made.folder, str(tmp_path / 'other'), partial=True)


def test_entries_of_an_unexpected_size(download, tmp_path):
    made = download('cc')
    with pytest.raises(InputError, match=r'CC_noisy.lmdb key 5dmark3_iso3200_1: is 16x16, but .* are 512x512'):
        prepare.prepare([made.parts[0]._replace(size=(512, 512))], made.folder, str(tmp_path))


def test_missing_parts_are_named_and_the_rest_is_made(download, tmp_path, capsys):
    made = download('bsds500')
    os.rename(f'{made.folder}/BSR/BSDS500/data/images/val', f'{made.folder}/moved')
    prepare.prepare(made.parts, made.folder, str(tmp_path / 'out'))
    assert 'bsds500_val: left out, no images/val/101085.jpg in' in capsys.readouterr().out
    assert sorted(os.listdir(tmp_path / 'out')) == ['BSD500.lmdb', 'bsds500_train.lmdb']


def test_only_some(download, tmp_path):
    made = download('bsds500')
    prepare.prepare(made.parts, made.folder, str(tmp_path / 'out'), only=['bsds500_val'])
    assert os.listdir(tmp_path / 'out') == ['bsds500_val.lmdb']
    with pytest.raises(InputError, match='--only val: this data set makes BSD500, bsds500_train, bsds500_val'):
        prepare.prepare(made.parts, made.folder, str(tmp_path / 'out'), only=['val'])


# ------------------------------------------------------------------ PolyU's scenes and crops

def test_polyu_skips_and_names_scenes_without_partner(download, tmp_path, capsys):
    made = download('polyu')
    os.remove(f'{made.folder}/OriginalImages/Canon5D2_chair_mean.JPG')
    prepare.prepare(made.parts[:1], made.folder, str(tmp_path))
    out = capsys.readouterr().out
    assert 'polyu_train_noisy: without partner, left out: Canon5D2_chair.' in out
    assert re.search(r'polyu_train_noisy.lmdb +1 +2 +3  8x8  INCOMPLETE', out)
    assert LmdbStore(str(tmp_path / 'polyu_train_noisy.lmdb')).keys == [f'SonyA7II_plant_{n}' for n in range(3)]


def test_polyu_crops_are_disjoint_reproducible_and_the_same_in_both_streams(download, tmp_path):
    made = download('polyu')
    for out in ('one', 'two'):
        prepare.prepare(made.parts[1:2], made.folder, str(tmp_path / out), workers=1 if out == 'one' else 4)
    one, two = (pixels(str(tmp_path / out / 'polyu_test_noisy.lmdb')) for out in ('one', 'two'))
    clean = pixels(str(tmp_path / 'one' / 'polyu_test_clean.lmdb'))
    order = {}
    for key in one:
        np.testing.assert_array_equal(one[key], two[key])
        block, clean_block = (int(image.mean() // 60) for image in (one[key], clean[key]))
        assert block == clean_block and one[key].shape == (SIDE, SIDE, 3)
        order.setdefault(key[:-2], []).append(block)
    assert all(len(set(blocks)) == 3 for blocks in order.values())
    assert order == {'Canon5D2_bag': [0, 2, 3], 'SonyA7II_stair': [2, 0, 1]}  # the draw must never change


def test_a_photo_too_small_for_its_crops(download, tmp_path):
    made = download('polyu')
    with pytest.raises(InputError, match=r'Canon5D2_bag_Real.JPG: too small for 3 crops of 16x16'):
        prepare.prepare([made.parts[1]._replace(crop=16)], made.folder, str(tmp_path))


# ------------------------------------------------------------------ started again

@pytest.mark.parametrize('error', [KeyboardInterrupt, InputError])
def test_a_stopped_run_is_finished_by_the_next(error, download, tmp_path, monkeypatch, capsys):
    made, stop = download('bsds500'), []

    def stopping(store, target, *args, **kwargs):
        if stop:
            os.makedirs(f'{target[:-5]}.partial.lmdb')  # what a killed writer leaves
            open(f'{target[:-5]}.partial.lmdb/.lock', 'w').close()
            raise error('stopped')
        stop.append(target)
        return lmdb_writer.create_lmdb(store, target, *args, **kwargs)

    monkeypatch.setattr(prepare, 'create_lmdb', stopping)
    with pytest.raises(error):
        prepare.prepare(made.parts, made.folder, str(tmp_path))
    monkeypatch.undo()
    first = tmp_path / 'BSD500.lmdb' / 'data.mdb'
    before = first.stat().st_mtime_ns
    capsys.readouterr()
    prepare.prepare(made.parts, made.folder, str(tmp_path))
    out = capsys.readouterr().out
    assert re.search(r'BSD500.lmdb .* is there', out) and not re.search(r'bsds500_val.lmdb .* is there', out)
    assert first.stat().st_mtime_ns == before
    assert sorted(path.name for path in tmp_path.glob('*.lmdb')) == ['BSD500.lmdb', 'bsds500_train.lmdb',
                                                                     'bsds500_val.lmdb']


@pytest.mark.parametrize(('other', 'message'), [
    ({'0001.png': (4, 4)}, 'DIV2K.lmdb: exists and holds other images than asked for, 0800 for example. Remove it'),
    ({'0001.png': (4, 4), '0800.png': (4, 4), 'x.png': (4, 4)}, 'other images than asked for, x for example'),
])
def test_an_existing_lmdb_of_other_images(other, message, download, image_folder, tmp_path):
    made = download('div2k')
    folder = image_folder('other', {name: np.zeros((*size, 3), np.uint8) for name, size in other.items()})
    lmdb_writer.create_lmdb(folder, str(tmp_path / 'DIV2K.lmdb'))
    with pytest.raises(InputError, match=message):
        prepare.prepare(made.parts, made.folder, str(tmp_path))


def test_a_damaged_finished_lmdb_is_found(download, tmp_path):
    made = download('coco')
    prepare.prepare(made.parts, made.folder, str(tmp_path))
    (tmp_path / 'COCO.lmdb' / 'meta_info.txt').write_text('000000000009.png (9,9,3) 1\n000000581929.png (9,9,3) 1\n')
    with pytest.raises(InputError, match=r'COCO.lmdb key 000000000009: is 16x16 but meta_info.txt says 9x9'):
        prepare.prepare(made.parts, made.folder, str(tmp_path))


def test_raw_pixels(download, tmp_path):
    made = download('gopro')
    prepare.prepare(made.parts, made.folder, str(tmp_path), raw=True)
    assert isinstance(open_one(str(tmp_path / 'GoPro_blur.lmdb'), ''), RawStore)
    with pytest.raises(InputError, match='GoPro_blur.lmdb: exists as raw pixels, cut at 8, other than'):
        prepare.prepare(made.parts, made.folder, str(tmp_path))


@pytest.mark.parametrize(('before', 'now', 'message'), [
    (['--crop', '16'], ['--crop', '24'], 'exists as PNGs, cut at 16'),
    (['--crop', '16'], [], 'exists as PNGs, cut at 16'),
    ([], ['--raw'], 'exists as PNGs, not cut'),
    (['--raw'], [], 'exists as raw pixels, not cut'),
])
def test_an_existing_lmdb_of_another_kind(before, now, message, image_folder, tmp_path):
    base = ['folder', '--src', image_folder('x', 2), '--dst', str(tmp_path)]
    prepare.main([*base, *before])
    prepare.main([*base, *before])  # kept
    with pytest.raises(SystemExit, match=message):
        prepare.main([*base, *now])


def test_names_that_look_like_sub_images(image_folder, tmp_path):
    folder = image_folder('x', {'a_s001.png': np.zeros((8, 8, 3), np.uint8)})
    for _ in range(2):
        prepare.main(['folder', '--src', folder, '--dst', str(tmp_path), '--crop', '16'])
    assert LmdbStore(str(tmp_path / 'x.lmdb')).keys == ['a_s001']


# ------------------------------------------------------------------ what is said beforehand

def test_dry_run_writes_nothing(download, tmp_path, capsys):
    made = download('gopro')
    prepare.prepare(made.parts, made.folder, str(tmp_path / 'out'), dry_run=True)
    assert not (tmp_path / 'out').exists()
    assert re.search(r'GoPro_blur.lmdb +2 +0.00 GiB +0.00 GiB', capsys.readouterr().out)


@pytest.mark.parametrize('raw', [False, True])
def test_the_announced_size_is_about_what_is_written(raw, tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    for number in range(20):
        write(tmp_path / f'src/{number}.png', rng.integers(0, 256, (70, 64, 3), np.uint8))
    part, announced = Part(('x',), match(r'src/(\d+)\.png'), 'src', crop=32, step=24), []
    estimate = prepare._estimate
    monkeypatch.setattr(prepare, '_estimate', lambda *args: announced.append(estimate(*args)) or announced[0])
    prepare.prepare([part], str(tmp_path), str(tmp_path), raw=raw)
    assert announced[0] == pytest.approx(os.path.getsize(tmp_path / 'x.lmdb' / 'data.mdb'), rel=0.35)


def test_too_little_room(download, tmp_path, monkeypatch):
    made = download('coco')
    monkeypatch.setattr(prepare.shutil, 'disk_usage', lambda path: namedtuple('Usage', 'free')(10))
    with pytest.raises(InputError, match=r'datasets: about .* GiB are needed and 0.0 GiB free'):
        prepare.prepare(made.parts, made.folder, str(tmp_path / 'datasets'))


# ------------------------------------------------------------------ the command and the table

def test_option_files_ask_only_for_what_is_made():
    made = {stream for parts in DATASETS.values() for part in parts for stream in part.streams}
    asked = {name for file in (ROOT / 'options').rglob('*.yml') for name in re.findall(r'datasets/(\w+)\.lmdb',
                                                                                     file.read_text())}
    of_the_study = {'correlated_train', 'camera_train', 'large_train', 'processed_train'}  # scripts/make_*_data.py
    assert asked - made - of_the_study - {*make_real_data.LMDBS} == {'clean', 'my_photos'}  # the user's own


def test_names_of_streams_are_unique():
    streams = [stream for parts in DATASETS.values() for part in parts for stream in part.streams if stream]
    assert len(streams) == len(set(streams))


def test_command(image_folder, tmp_path, capsys):
    folder = image_folder('my photos', 2)
    for arguments in (['folder', '--name', 'mine', '--crop', '16', '--step', '12'], ['folder']):
        prepare.main([*arguments, '--src', folder, '--dst', str(tmp_path / 'out')])
    assert len(LmdbStore(str(tmp_path / 'out/mine.lmdb')).keys) == 2 * 3 * 4
    assert (tmp_path / 'out/my photos.lmdb').is_dir()
    shutil.rmtree(tmp_path / 'out')
    prepare.main(['folder', '--name', 'cut', '--crop', '16', '--step', '12', '--src', folder, '--dst',
                  str(tmp_path / 'out')])
    for arguments, message in ((['folder', '--name', 'cut', '--crop', '16', '--step', '8'], 'cut at another distance'),
                               (['coco', '--crop', '16'], '--name, --crop and --step are for folder'),
                               (['folder', '--crop', '0'], '--crop 0: must be at least 1'),
                               (['folder', '--step', '4'], 'step 4: must be between 1 and the crop'),
                               (['folder', '--name', 'n', '--crop', '4', '--step', '9'], 'step 9: must be between'),
                               (['coco'], 'nothing of this data set is there; looked for train2017')):
        with pytest.raises(SystemExit, match=f'^error: .*{message}'):
            prepare.main([*arguments, '--src', folder, '--dst', str(tmp_path / 'out')])
    capsys.readouterr()
    with pytest.raises(SystemExit):
        prepare.main(['--help'])
    help_text = capsys.readouterr().out
    for parts in DATASETS.values():
        assert all(stream in help_text for part in parts for stream in part.streams if stream)


def test_another_distance_is_noticed_beside_images_in_one_piece(image_folder, tmp_path):
    images = {f'{name}.png': np.zeros((side, side, 3), np.uint8) for name, side in (('a', 9), ('b', 40))}
    cut = ['folder', '--src', image_folder('x', images), '--dst', str(tmp_path / 'out'), '--crop', '16', '--step']
    prepare.main([*cut, '12'])
    prepare.main([*cut, '12'])
    with pytest.raises(SystemExit, match='cut at another distance'):
        prepare.main([*cut, '8'])


@pytest.mark.parametrize('raw', [[], ['--raw']])
@pytest.mark.parametrize('other', [(0, 20, 40), (0, 40, 20), (2, 20, 20)])
def test_other_images_of_the_same_names_are_noticed(image_folder, tmp_path, raw, other):
    """As of two cameras that number their photos alike: one pixel, or the size, differs in the first or last image."""
    which, height, width = other
    images = {f'{name}.png': np.full((20, 40, 3), number, np.uint8) for number, name in enumerate('abc')}
    command = ['folder', *raw, '--name', 'x', '--dst', str(tmp_path / 'out'), '--crop', '16', '--src']
    prepare.main([*command, image_folder('first', images)])
    prepare.main([*command, image_folder('moved', images)])  # the same images elsewhere are as good
    name = 'abc'[which]
    images[f'{name}.png'] = np.resize(images[f'{name}.png'], (height, width, 3)).copy()
    images[f'{name}.png'][-1, -1] ^= 1
    entries = len(open_one(str(tmp_path / 'out/x.lmdb'), 'x').keys)
    with pytest.raises(SystemExit, match=f'x.lmdb: exists, .*(its {name} is not that of --src, .*second|--step)'):
        prepare.main([*command, image_folder('second', images)])
    assert len(open_one(str(tmp_path / 'out/x.lmdb'), 'x').keys) == entries


def test_links_that_lead_back(image_folder, tmp_path):
    source = tmp_path / 'DIV2K_train_HR'
    image_folder('DIV2K_train_HR', {'0001.png': np.zeros((9, 9, 3), np.uint8)})
    for link in ('loop', 'again'):
        (source / link).symlink_to(source)
    jobs = prepare.plan(DATASETS['div2k'], str(source), str(tmp_path / 'out'), only=['DIV2K'], partial=True)
    assert [job.store.keys for job in jobs] == [['0001']]


def test_interrupted_command(image_folder, tmp_path, monkeypatch, capsys):
    def interrupted(*_, **__):
        raise KeyboardInterrupt
    monkeypatch.setattr(prepare, 'create_lmdb', interrupted)
    with pytest.raises(SystemExit, match='130'):
        prepare.main(['folder', '--src', image_folder('x', 1), '--dst', str(tmp_path / 'out')])
    assert 'Start the same command again: finished LMDBs are kept' in capsys.readouterr().err


def test_script(image_folder, tmp_path):
    process = run([ROOT / 'scripts/prepare.py', 'folder', '--src', image_folder('x', 2)], tmp_path)
    assert process.returncode == 0, process.stdout
    assert re.search(r'datasets/x.lmdb +2 +- +2  40x48', process.stdout)
