"""Photo and PhotoWriter: every pixel and all that is not pixels survives reading and writing."""
import io
import struct

import cv2
import numpy as np
import pytest
import pyvips
import tifffile
from PIL import Image, ImageCms

from noiseda_basicsr import InputError
from noiseda_data.photo import Photo, PhotoWriter
from noiseda_data.store import decode

RNG = np.random.default_rng(0)
COLOUR = RNG.integers(0, 256, (20, 30, 3), np.uint8)
DEEP = RNG.integers(0, 65536, (20, 30, 3)).astype(np.uint16)
PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile('sRGB')).tobytes()
ORIENTATION, MAKER = 0x0112, 0x010F


def copy(source, target, change=lambda pixels: pixels, quality=95):
    photo = Photo(str(source))
    with PhotoWriter(photo, str(target), quality) as writer:
        for rows in np.array_split(change(photo.read().astype(np.float64) / np.iinfo(photo.dtype).max), 3):
            writer.write(rows)
        writer.finish()
    return target


def read(path):
    """As written by cv2.imwrite; OpenCV multiplies the colours of a TIFF with its alpha."""
    if path.suffix in ('.tif', '.tiff'):
        image = tifffile.imread(path)
        order = {3: [2, 1, 0], 4: [2, 1, 0, 3]}.get(image.shape[-1])
        return image[..., order] if order else image
    return cv2.imread(str(path), cv2.IMREAD_UNCHANGED)


def write(path, image):
    assert cv2.imwrite(str(path), image)
    return path


@pytest.mark.parametrize('ending', ['.png', '.tif', '.tiff'])
@pytest.mark.parametrize('image', [
    COLOUR, DEEP, COLOUR[..., 0], DEEP[..., 0], np.dstack([COLOUR, COLOUR[..., 1]]), np.dstack([DEEP, DEEP[..., 1]])],
    ids=['colour', '16 bit', 'grey', 'grey 16 bit', 'alpha', 'alpha 16 bit'])
def test_lossless_formats_keep_every_pixel(tmp_path, ending, image):
    source = write(tmp_path / f'in{ending}', image)
    back = read(copy(source, tmp_path / f'out{ending}'))
    assert back.dtype == image.dtype
    np.testing.assert_array_equal(back, image)


@pytest.mark.parametrize('ending', ['.png', '.jpg', '.webp', '.tif'])
def test_reads_what_the_training_data_reads(tmp_path, ending):
    """The same pixels as noiseda_data.store gives, the orientation applied."""
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    Image.fromarray(COLOUR).save(tmp_path / f'a{ending}', exif=exif)
    source = tmp_path / f'a{ending}'
    photo = Photo(str(source))
    assert (photo.height, photo.width) == (30, 20)
    turned_tiff = ending == '.tif'  # OpenCV 5.0 cannot read it
    expected = np.rot90(COLOUR, -1) if turned_tiff else decode(source.read_bytes(), 'a')
    np.testing.assert_array_equal(photo.read(), expected)
    np.testing.assert_array_equal(photo.read(7, 11), expected[7:11])


@pytest.mark.parametrize('orientation', range(1, 9))
def test_the_result_is_upright_and_says_so(tmp_path, orientation):
    exif = Image.Exif()
    exif[ORIENTATION], exif[MAKER] = orientation, 'Some Camera'
    Image.fromarray(COLOUR).save(tmp_path / 'in.png', exif=exif, icc_profile=PROFILE)
    copy(tmp_path / 'in.png', tmp_path / 'out.png')
    with Image.open(tmp_path / 'out.png') as image, Image.open(tmp_path / 'in.png') as original:
        assert image.getexif()[ORIENTATION] == 1
        assert image.getexif()[MAKER] == 'Some Camera'
        assert image.info['icc_profile'] == PROFILE
        turn = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}  # PIL's numbers of FLIP_LEFT_RIGHT, ROTATE_180 ...
        expected = original.transpose(turn[orientation]) if orientation > 1 else original
        np.testing.assert_array_equal(np.asarray(image), np.asarray(expected))


def test_the_thumbnail_of_the_degraded_photo_is_not_kept(tmp_path):
    """EXIF with a second directory, of an embedded JPEG, as cameras write it."""
    small = io.BytesIO()
    Image.fromarray(COLOUR[:8, :8]).save(small, 'JPEG')
    entries = [(ORIENTATION, 3, 6), (0x0103, 3, 6), (0x0201, 4, 80), (0x0202, 4, len(small.getvalue()))]

    def directory(entries, following):
        parts = [struct.pack('<HHII', tag, kind, 1, value) for tag, kind, value in sorted(entries)]
        return struct.pack('<H', len(entries)) + b''.join(parts) + struct.pack('<I', following)

    first = directory(entries[:1], 26)  # 8 bytes of header, 18 of this
    exif = b'II*\0' + struct.pack('<I', 8) + first + directory(entries, 0)
    exif = b'Exif\0\0' + exif + b'\0' * (80 - len(exif)) + small.getvalue()
    Image.fromarray(COLOUR).save(tmp_path / 'in.jpg', exif=exif)
    assert small.getvalue() in (tmp_path / 'in.jpg').read_bytes()
    copy(tmp_path / 'in.jpg', tmp_path / 'out.jpg')
    assert (tmp_path / 'out.jpg').read_bytes().count(b'\xff\xd8\xff') == 1  # the start of a JPEG
    with Image.open(tmp_path / 'out.jpg') as image:
        assert image.size == (20, 30)
        assert image.getexif()[ORIENTATION] == 1
        assert not image.getexif().get_ifd(1)


@pytest.mark.skipif(pyvips.type_find('VipsOperation', 'uhdrsave') == 0,
                    reason='this libvips knows no Ultra HDR')
@pytest.mark.parametrize('orientation, kept', [(1, True), (6, False)])
def test_the_gain_map_of_a_photo_that_was_turned_is_not_kept(tmp_path, orientation, kept):
    """Ultra HDR: a small picture of how much brighter each place is on an HDR screen. It would stay as it lay."""
    light = np.full((24, 32, 3), 0.2, np.float32)
    light[:, 24:] = 8
    image = pyvips.Image.new_from_memory(light.tobytes(), 32, 24, 3, 'float').copy(interpretation='scrgb')
    image.uhdrsave(str(tmp_path / 'upright.jpg'))
    image = pyvips.Image.new_from_file(str(tmp_path / 'upright.jpg')).copy()
    image.set_type(pyvips.GValue.gint_type, 'orientation', orientation)
    image.uhdrsave(str(tmp_path / 'in.jpg'))
    copy(tmp_path / 'in.jpg', tmp_path / 'out.jpg')
    for name, has_map in (('in', True), ('out', kept)):
        fields = pyvips.Image.new_from_file(str(tmp_path / f'{name}.jpg')).get_fields()
        assert ('gainmap-data' in fields) == has_map
    assert Photo(str(tmp_path / 'out.jpg')).read().shape == ((24, 32, 3) if kept else (32, 24, 3))


@pytest.mark.parametrize('ending', ['.jpg', '.webp', '.tif', '.png'])
def test_metadata_is_kept(tmp_path, ending):
    exif = Image.Exif()
    exif[MAKER] = 'Some Camera'
    Image.fromarray(COLOUR).save(tmp_path / f'in{ending}', exif=exif, icc_profile=PROFILE, dpi=(300, 300))
    copy(tmp_path / f'in{ending}', tmp_path / f'out{ending}')
    with Image.open(tmp_path / f'out{ending}') as image:
        assert image.info['icc_profile'] == PROFILE
        if ending != '.tif':  # libvips does not read the tags of TIFF
            assert image.getexif()[MAKER] == 'Some Camera'
        if ending == '.jpg':
            assert image.info['dpi'] == (300, 300)


def test_nothing_is_made_up(tmp_path):
    copy(write(tmp_path / 'in.png', COLOUR), tmp_path / 'out.png')
    with Image.open(tmp_path / 'out.png') as image:
        assert not image.getexif() and 'icc_profile' not in image.info


def test_from_one_format_to_another(tmp_path):
    deep = write(tmp_path / 'in.tif', np.dstack([DEEP, DEEP[..., 1]]))
    back = read(copy(deep, tmp_path / 'out.png'))
    np.testing.assert_array_equal(back, np.dstack([DEEP, DEEP[..., 1]]))
    smooth = np.full((32, 32, 3), 30000, np.uint16)
    back = read(copy(write(tmp_path / 'smooth.png', smooth), tmp_path / 'smooth.jpg'))
    assert back.dtype == np.uint8 and abs(int(back.mean()) - 30000 / 257) < 1
    alpha = Photo(str(copy(deep, tmp_path / 'out.webp')))
    assert alpha.has_alpha and alpha.dtype == np.uint8
    np.testing.assert_array_equal(alpha.image.numpy()[..., 3], np.rint(DEEP[..., 1] / 257).astype(np.uint8))


def test_quality_is_that_of_the_encoder(tmp_path):
    source = write(tmp_path / 'in.png', COLOUR)
    sizes = [copy(source, tmp_path / f'{q}.jpg', quality=q).stat().st_size for q in (10, 50, 95)]
    assert sizes == sorted(set(sizes))


def test_rows_are_clipped_and_rounded(tmp_path):
    source = write(tmp_path / 'in.png', COLOUR)
    values = np.array([-0.5, 0.4 / 255, 0.6 / 255, 254.6 / 255, 1.5])
    pixels = np.resize(values, (20, 30, 3))
    back = Photo(str(copy(source, tmp_path / 'out.png', lambda _: pixels))).read()
    np.testing.assert_array_equal(back, np.resize([0, 0, 1, 255, 255], (20, 30, 3)))


def test_grey_is_the_mean_of_the_channels(tmp_path):
    source = write(tmp_path / 'in.png', COLOUR[..., 0])
    pixels = RNG.random((20, 30, 3))
    back = read(copy(source, tmp_path / 'out.png', lambda _: pixels))
    np.testing.assert_array_equal(back, np.rint(pixels.mean(2) * 255).astype(np.uint8))


def cmyk(path):
    Image.fromarray(COLOUR).convert('CMYK').save(path)


def two_pages(path):
    Image.fromarray(COLOUR).save(path, save_all=True, append_images=[Image.fromarray(COLOUR)])


def floats(path):
    write(path, COLOUR.astype(np.float32))


def truncated(path):
    memory = io.BytesIO()
    Image.fromarray(COLOUR).resize((300, 300)).save(memory, 'JPEG' if path.suffix == '.jpg' else 'PNG')
    path.write_bytes(memory.getvalue()[:len(memory.getvalue()) // 2])


def text(path):
    path.write_text('hello')


@pytest.mark.parametrize('name, make, words', [
    ('a.jpg', cmyk, 'convert it to RGB'), ('a.tif', two_pages, 'holds 2 images; split it'),
    ('a.tif', floats, 'convert it to 8 or 16 bit'), ('a.jpg', truncated, 'may be damaged'),
    ('a.png', truncated, 'may be damaged'), ('a.png', text, 'may be damaged'), ('a.txt', text, 'not a .jpeg'),
    ('a.png', lambda path: None, 'no such file')])
def test_other_files_are_refused_by_name(tmp_path, name, make, words):
    make(tmp_path / name)
    with pytest.raises(InputError, match=words) as error:
        Photo(str(tmp_path / name)).read()
    assert str(tmp_path / name) in str(error.value)


def test_jpeg_cannot_hold_alpha(tmp_path):
    photo = Photo(str(write(tmp_path / 'in.png', np.dstack([COLOUR, COLOUR[..., 0]]))))
    with pytest.raises(InputError, match='alpha channel, which JPEG cannot hold; choose png'):
        PhotoWriter(photo, str(tmp_path / 'out.jpg'))


@pytest.mark.parametrize(('ending', 'longest'), [('.webp', 16383), ('.jpg', 65500)])
def test_what_is_too_long_for_a_format_is_told_before_it_is_restored(tmp_path, ending, longest):
    fitting, longer = (Photo(str(write(tmp_path / f'{side}.png', np.zeros((1, side, 3), np.uint8))))
                       for side in (longest, longest + 1))
    assert read(copy(fitting.path, tmp_path / f'out{ending}')).shape == (1, longest, 3)
    with pytest.raises(InputError, match=f'is {longest + 1}x1, and a side in {ending} files has {longest} pixels at m'):
        PhotoWriter(longer, str(tmp_path / f'out{ending}'))


def test_a_file_is_complete_or_not_there(tmp_path, monkeypatch):
    """Whatever fails, what was there stays, and nothing else is left behind."""
    source, target = write(tmp_path / 'in.png', COLOUR), tmp_path / 'out' / 'a.png'
    target.parent.mkdir()
    target.write_text('earlier')
    photo = Photo(str(source))
    with PhotoWriter(photo, str(target)) as writer:
        writer.write(COLOUR[:5] / 255)  # rows are missing
        with pytest.raises(InputError, match='a.png: cannot be written'):
            writer.finish()
    assert target.read_text() == 'earlier'
    assert [path.name for path in target.parent.iterdir()] == ['a.png']


def test_a_file_that_was_overwritten_is_read_anew(tmp_path):
    path = str(tmp_path / 'a.png')
    for value in (10, 200):
        Image.fromarray(np.full((4, 6, 3), value, np.uint8)).save(path)
        assert (Photo(path).read() == value).all()
