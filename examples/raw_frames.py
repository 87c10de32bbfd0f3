"""Classify a video with a program of `xvit export --raw-frames`, without xvit.

pip install onnxruntime av numpy
python examples/raw_frames.py EXPORT/model.onnx VIDEO
"""

import json
import sys

import av
import numpy as np
import onnxruntime

session = onnxruntime.InferenceSession(sys.argv[1])
meta = session.get_modelmeta().custom_metadata_map
keys = ("num_frames", "stride", "frame_rate", "image_size", "class_names")
T, stride, rate, image_size, class_names = (json.loads(meta[f"xvit.{key}"]) for key in keys)


def choose_frames(times: np.ndarray) -> np.ndarray:
    """The indices of the clip's frames, from the times of all frames of the video in seconds."""
    interval = times[-1] / max(len(times) - 1, 1)
    total = max(round((len(times) * interval - 0.001) * rate), 1) if rate else len(times)  # frames at the model's rate
    repeats = -(-T // total) if rate and total < T and meta["xvit.sampling"] == "segments" else 1  # a short video
    total *= repeats
    if meta["xvit.sampling"] == "segments":  # the middle frame of each of T equal parts
        bounds = np.arange(T + 1) * total // T
        chosen = bounds[:-1] + np.maximum(np.diff(bounds), 1) // 2
    else:  # strided: T frames from the middle of the video
        chosen = np.minimum(max(total - (T - 1) * stride - 1, 0) // 2 + stride * np.arange(T), total - 1)
    if not rate:
        return chosen
    # the frame on display at each moment: the first one after it, if it comes soon enough
    frame_rate, gaps = rate * repeats, np.diff(times)
    tolerance, longest = np.minimum(0.001, gaps / 3), max(1 / frame_rate - interval / 2, 0.5 / frame_rate)
    shown_from = times[1:] - np.minimum(gaps - tolerance, longest + tolerance)
    return np.searchsorted(shown_from, chosen / frame_rate, side="right")


def to_rgb(frame: av.VideoFrame) -> np.ndarray:
    """The frame as an array. A large one is shrunk, as xvit does: faster, and the program resizes the rest."""
    width, height, short = frame.width, frame.height, min(frame.width, frame.height)
    if short > 2 * image_size:
        width, height = round(width * image_size / short), round(height * image_size / short)
    return frame.reformat(width, height, format="rgb24", interpolation="BILINEAR").to_ndarray()


with av.open(sys.argv[2]) as container:
    times = np.array([frame.time for frame in container.decode(video=0)])
indices = choose_frames(times - times[0])
with av.open(sys.argv[2]) as container:  # again: all frames of a long video would not fit in memory
    decoded = enumerate(container.decode(video=0))
    images = {index: to_rgb(frame) for index, frame in decoded if index in indices}
frames = np.stack([images[index] for index in indices])[None]  # (1, T, H, W, 3), uint8, of any size
outputs = session.run(None, {"frames": frames})
[scores] = outputs[0]
if len(outputs) > 1 and outputs[1][0] < 0:  # the margin, of a calibrated model
    print("none of these; the nearest:")
for index in np.argsort(-scores, kind="stable")[:5]:
    print(f"{class_names[index]:20} {100 * scores[index]:5.1f} %")
