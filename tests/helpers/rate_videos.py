"""The same motion at any frame rate: a video that changes `STEPS` times per second, whatever its own rate."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from helpers.barcode_videos import barcode_frame

STEPS = 8  # barcode numbers per second
_LEAD = 0.34  # number k is shown from (k - 0.34) / STEPS to (k + 0.66) / STEPS seconds
_UNITS = 90_000  # per second
_LOSSLESS = {"qp": "0", "g": "1", "preset": "ultrafast"}


def constant_rate(fps: float, seconds: float) -> list[float]:
    """The times of the frames of a video of a constant rate."""
    return [index / fps for index in range(round(seconds * fps))]


def varying_rate(seconds: float, *, seed: int = 0) -> list[float]:
    """Times of frames that are 10 to 80 ms apart."""
    steps = np.random.default_rng(seed).uniform(0.01, 0.08, size=round(100 * seconds))
    times = np.concatenate([[0], np.cumsum(steps)])
    return times[times < seconds].tolist()


# Times of the frames of 4 seconds, by name.
RATES = {
    **{f"{fps:g}": constant_rate(fps, 4) for fps in (8, 12.5, 25, 50, 60_000 / 1001)},
    "varying": varying_rate(4),
}


def write_steps(
    path: Path,
    times: Sequence[float],
    *,
    shown: Sequence[float] | None = None,
    width: int = 96,
    height: int = 64,
) -> Path:
    """Write a lossless video whose frame at each of `times`, in seconds, shows the barcode number of that time.

    `shown` replaces the times that decide which numbers are shown.
    """
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options=_LOSSLESS)
        stream.width, stream.height, stream.pix_fmt, stream.thread_count = width, height, "yuv420p", 1
        stream.codec_context.time_base = Fraction(1, _UNITS)
        for time, shown_time in zip(times, shown or times, strict=True):
            image = barcode_frame(int(STEPS * shown_time + _LEAD), width=width, height=height)
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = round(time * _UNITS), Fraction(1, _UNITS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path
