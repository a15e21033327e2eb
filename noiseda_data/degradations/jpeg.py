"""JPEG compression (ITU-T T.81)."""
import cv2
import numpy as np

from noiseda_data.degradations.draws import Range


class JPEG:
    """Compress and decompress; the image is clipped to [0, 1] and rounded to 8 bit first.

    libjpeg's default of half the resolution for chroma (4:2:0) holds.

    Args:
        quality (int | list[int]): 1-100, libjpeg's scale.
    """

    def __init__(self, quality):
        self.quality = Range('quality', quality, 1, 100)

    def __call__(self, image, rng):
        return compress(image, round(self.quality(rng)))


def compress(image, quality):
    """``image`` after a JPEG of this quality."""
    bgr = (image[..., ::-1].clip(0, 1) * 255).round().astype(np.uint8)
    _, jpeg = cv2.imencode('.jpg', bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return cv2.imdecode(jpeg, cv2.IMREAD_COLOR)[..., ::-1].astype(np.float32) / 255
