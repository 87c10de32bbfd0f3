"""Pictures in answers, as data addresses."""

import base64
import io

import numpy as np
from PIL import Image

_QUALITY = 90


def to_data_uri(pixels: np.ndarray) -> str:
    """A picture (H, W, 3), uint8 RGB, as data:image/jpeg;base64,..."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=_QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
