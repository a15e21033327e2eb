"""A camera's noise, where it arises: on the sensor, before the processing that bends, mixes and smears it."""
import cv2
import numpy as np

from noiseda_data.degradations.draws import Range, gaussian
from noiseda_data.degradations.jpeg import compress

# XYZ -> camera of the four cameras of the Darmstadt noise data set, as Brooks et al. list them, and sRGB -> XYZ (D65)
XYZ_TO_CAMERA = np.array([
    [[1.0234, -0.2969, -0.2266], [-0.5625, 1.6328, -0.0469], [-0.0703, 0.2188, 0.6406]],
    [[0.4913, -0.0541, -0.0202], [-0.6130, 1.3513, 0.2906], [-0.1564, 0.2151, 0.7183]],
    [[0.8380, -0.2630, -0.0639], [-0.2887, 1.0725, 0.2496], [-0.0627, 0.1427, 0.5438]],
    [[0.6596, -0.2079, -0.0562], [-0.4782, 1.3016, 0.1933], [-0.0970, 0.1581, 0.5181]],
])
SRGB_TO_XYZ = np.array([
    [0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]])
HIGHLIGHT = 0.9  # above this grey level, inverting the gains must not dim what may be saturated


class Camera:
    """Sensor noise seen through a camera: unprocess, Bayer mosaic, shot and read noise, demosaic, tone, JPEG.

    Source: Brooks et al., "Unprocessing images for learned raw denoising", CVPR 2019: steps, their order, colour
    matrices, distributions of gains and noise levels. Its brightening gain is undone, too, and the tone curve put back,
    so that without noise the image returns as it was but for demosaicing and JPEG.

    Noise is white on the sensor, its variance shot * y + read; log(read) is normal around 2.18 log(shot) + 1.20 with
    standard deviation 0.26. Sensor and processing clip to [0, 1], which shifts colours: upwards in the shadows, where
    negative values are lost, downwards near white. docs/data.md has the figures.

    Args:
        shot (float | list[float]): Variance per unit of signal; a range is log-uniform. Brooks et al.: 0.0001-0.012.
        quality (int | list[int] | None): JPEG quality, 1-100; None for no JPEG.
    """

    def __init__(self, shot=(0.0001, 0.012), quality=(80, 100)):
        self.shot = Range('shot', shot, 1e-9, 1)
        self.quality = None if quality is None else Range('quality', quality, 1, 100)

    def __call__(self, image, rng):
        to_camera, gains = draw_camera(rng)
        shot, read = draw_noise_level(self.shot, rng)
        raw = add_noise(mosaic(unprocess(image, to_camera, gains)), shot, read, rng)
        processed = process(raw, to_camera, gains)
        return processed if self.quality is None else compress(processed, round(self.quality(rng)))


def draw_camera(rng):
    """A random camera and its settings: the matrix sRGB -> camera, whose rows sum to 1, and the gains of R, G, B."""
    weights = rng.uniform(size=len(XYZ_TO_CAMERA))
    to_camera = np.tensordot(weights, XYZ_TO_CAMERA, 1) @ SRGB_TO_XYZ
    gains = np.array([rng.uniform(1.9, 2.4), 1, rng.uniform(1.5, 1.9)]) / rng.normal(0.8, 0.1)
    return (to_camera / to_camera.sum(axis=1, keepdims=True)).astype(np.float32), gains.astype(np.float32)


def draw_noise_level(shot, rng):
    """(shot, read), the variance per unit of signal and that of black; ``shot`` is a :class:`Range`."""
    log_shot = rng.uniform(np.log(shot.low), np.log(shot.high))
    return np.exp(log_shot), np.exp(2.18 * log_shot + 1.20 + rng.normal(0, 0.26))


def unprocess(image, to_camera, gains):
    """From sRGB to the linear values of the sensor's red, green and blue, float32 (H, W, 3) in [0, 1]."""
    linear = (0.5 - np.sin(np.arcsin(1 - 2 * image.clip(0, 1)) / 3))**np.float32(2.2)  # smoothstep and gamma undone
    camera = linear @ to_camera.T
    grey = camera @ np.full((3, 1), 1 / 3, np.float32)
    saturation = np.clip((grey - HIGHLIGHT) / (1 - HIGHLIGHT), 0, None)**2
    return (camera * np.maximum(saturation + (1 - saturation) / gains, 1 / gains)).clip(0, 1)


def mosaic(image):
    """The value of one colour at each pixel, RGGB from the top left: (H, W, 3) -> (H, W)."""
    raw = image[..., 1].copy()
    raw[::2, ::2], raw[1::2, 1::2] = image[::2, ::2, 0], image[1::2, 1::2, 2]
    return raw


def add_noise(raw, shot, read, rng):
    """White noise of variance shot * raw + read."""
    return raw + np.sqrt(np.float32(shot) * raw + np.float32(read)) * gaussian(rng, raw.shape)


def process(raw, to_camera, gains):
    """From a Bayer mosaic to sRGB: white balance, bilinear demosaicing (at 16 bit), colour, gamma and tone curve."""
    balanced = raw * gains[1]
    balanced[::2, ::2] *= gains[0] / gains[1]
    balanced[1::2, 1::2] *= gains[2] / gains[1]
    camera = cv2.demosaicing((balanced.clip(0, 1) * 65535).round().astype(np.uint16), cv2.COLOR_BayerRGGB2RGB)
    linear = (camera.astype(np.float32) / 65535) @ np.linalg.inv(to_camera).T
    display = linear.clip(0, 1)**np.float32(1 / 2.2)
    return 3 * display**2 - 2 * display**3
