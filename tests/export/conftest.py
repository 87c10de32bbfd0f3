"""Fixtures of the export tests: videos, their clips, and programs that are traced only once."""

import hashlib

import pytest
import torch

from helpers.color_videos import CLIP, write_video
from xvit.data.annotations import find_videos
from xvit.data.transforms import normalize
from xvit.export import programs
from xvit.export.parity import read_clips


@pytest.fixture(scope="package")
def video_dir(tmp_path_factory) -> str:
    """A folder of six videos. Read-only."""
    folder = tmp_path_factory.mktemp("colours")
    for index in range(6):
        write_video(folder / f"{index}.mp4", color=index % 3, seed=index)
    return str(folder)


@pytest.fixture(scope="package")
def batch(video_dir) -> torch.Tensor:
    """The clips of all videos, normalised: (6, T, C, H, W)."""
    clips = read_clips(CLIP, find_videos([video_dir]), on_progress=lambda *_: None)
    return torch.cat([normalize(pixels, CLIP) for pixels in clips])


@pytest.fixture(scope="package", autouse=True)
def _traced_once():
    """Trace and convert the same model only once, which takes seconds: formats and precisions differ after that."""
    traced, converted = {}, {}
    trace, convert = programs._torch_export, torch.onnx.export

    def trace_once(module, model, manifest):
        weights = hashlib.sha256()
        for tensor in module.state_dict().values():
            weights.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
        # raw frames are resized and normalised in the program
        clip_spec = model.clip_spec if manifest.raw_frames else model.clip_spec.image_size
        settings = (type(module), getattr(module, "program", module).dtype, model.config, clip_spec, manifest.state)
        key = f"{settings} {weights.hexdigest()}"
        if key not in traced:
            traced[key] = trace(module, model, manifest)
        return traced[key]

    def convert_once(program, **settings):
        if id(program) not in converted:  # a program of `traced`, which keeps it
            converted[id(program)] = convert(program, **settings)
        return converted[id(program)]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(programs, "_torch_export", trace_once)
        patch.setattr(torch.onnx, "export", convert_once)
        yield
