"""Items and batches: views, seeded clips, labels, segments of videos, unreadable and hanging videos."""

import pickle
import threading
from dataclasses import replace

import pytest
import torch
from torchvision.transforms.v2 import functional as F

from helpers.barcode_videos import read_number, write_frames, write_video
from helpers.color_videos import PREPROCESSING
from helpers.rate_videos import RATES, write_steps
from xvit.config import AugmentConfig, ClipSpec
from xvit.data import dataset as dataset_module
from xvit.data import reading
from xvit.data.annotations import Sample
from xvit.data.dataset import Batch, VideoDataset, describe_flip_pairs
from xvit.data.decode import decode
from xvit.data.loader import make_loader
from xvit.data.sampling import sample_indices
from xvit.data.timeout import call_with_timeout
from xvit.data.transforms import as_tensor
from xvit.utils.errors import VideoError, XViTError

SPEC = ClipSpec(num_frames=4, image_size=32, **PREPROCESSING)
NO_AUGMENTATION = AugmentConfig(scale_jitter=(1, 1), horizontal_flip=0)
AUGMENT = AugmentConfig(scale_jitter=(1, 1.5), horizontal_flip=0.5, auto_augment="rand", random_erasing=0.5)


def batches(dataset: VideoDataset, *, batch_size: int = 3, num_workers: int = 0) -> list[Batch]:
    return list(make_loader(dataset, batch_size=batch_size, num_workers=num_workers))


def clip(dataset: VideoDataset, index: int, epoch: int) -> torch.Tensor:
    dataset.set_epoch(epoch)
    return dataset[index].pixels


def test_an_error_of_our_own_code_is_none_of_the_video(samples, monkeypatch):
    monkeypatch.setattr(dataset_module, "eval_views", lambda *args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        VideoDataset(samples=samples, clip_spec=SPEC)[0]


def test_test_views_are_all_crops_of_all_clips(samples):
    spec = ClipSpec(num_frames=4, image_size=32, **PREPROCESSING, sampling="strided", stride=2)
    pixels = VideoDataset(samples=samples, clip_spec=spec, temporal_views=2, spatial_views=3)[5].pixels
    assert pixels.shape == (6, 4, 3, 32, 32)
    for view in range(2):
        indices = sample_indices(spec, 40, view=view, num_views=2)
        frames = F.resize(as_tensor(decode(samples[5].path, indices).frames), [32], antialias=True)
        for crop, left in enumerate((0, 2, 4)):  # 72 x 64 becomes 36 x 32
            assert torch.equal(pixels[3 * view + crop], frames[..., left : left + 32])


def test_training_clips_depend_on_seed_and_epoch(samples):
    dataset = VideoDataset(samples=samples, clip_spec=SPEC, augment=NO_AUGMENTATION, seed=5)
    numbers = [read_number(frame.permute(1, 2, 0).numpy()) for frame in dataset[2].pixels]
    assert [number // 7.5 for number in numbers] == [0, 1, 2, 3]  # 30 frames in 4 parts
    by_epoch = {epoch: clip(dataset, 2, epoch) for epoch in range(5)}
    assert not any(torch.equal(by_epoch[0], by_epoch[epoch]) for epoch in range(1, 5))
    assert torch.equal(clip(dataset, 2, 3), by_epoch[3])
    other = VideoDataset(samples=samples, clip_spec=SPEC, augment=NO_AUGMENTATION, seed=6)
    assert not torch.equal(clip(other, 2, 0), by_epoch[0])


def test_augmentation_depends_on_the_epoch(samples):
    spec = ClipSpec(num_frames=1, image_size=32, **PREPROCESSING)
    dataset = VideoDataset(samples=samples, clip_spec=spec, augment=AUGMENT)
    rows = set()
    for epoch in range(12):
        row = clip(dataset, 5, epoch)[0, :, 4].float().mean(dim=0)
        rows.add(tuple(row.tolist()))
    assert len(rows) > 8


def test_unreadable_videos_are_reported_and_not_replaced(samples):
    read = batches(VideoDataset(samples=samples, clip_spec=SPEC))
    assert [batch["indices"].tolist() for batch in read] == [[0, 1, 2], [4, 5], [6]]
    assert [batch["labels"].tolist() for batch in read] == [[0, 1, 2], [4, 5], [6]]
    assert [len(batch["pixels"]) for batch in read] == [3, 2, 1]
    errors = {index: error for batch in read for index, error in batch["errors"].items()}
    assert sorted(errors) == [3, 7]
    assert all(isinstance(error, VideoError) for error in errors.values())
    assert errors[7].reason == "no such file"
    assert all(error.__traceback__ is error.__context__ is None for error in errors.values()), "they hold no memory"


def test_a_batch_without_readable_videos_is_empty(samples):
    bad = [samples[3], samples[7]]
    (batch,) = batches(VideoDataset(samples=bad, clip_spec=SPEC, spatial_views=3))
    assert batch["pixels"].shape == (0, 3, 4, 3, 32, 32)
    assert batch["pixels"].dtype == torch.uint8
    assert batch["labels"].shape == batch["indices"].shape == (0,)
    assert sorted(batch["errors"]) == [0, 1]
    (batch,) = batches(VideoDataset(samples=bad, clip_spec=SPEC, augment=AUGMENT))
    assert batch["pixels"].shape == (0, 4, 3, 32, 32)


def test_labels_of_several_tasks_and_unknown_labels(samples):
    def labelled(*labels):
        return [Sample(path=samples[0].path, label=label, id=str(i)) for i, label in enumerate(labels)]

    tasks = labelled({"verb": 3, "noun": 7}, {"noun": 8, "verb": 4})
    (batch,) = batches(VideoDataset(samples=tasks, clip_spec=SPEC))
    assert {task: labels.tolist() for task, labels in batch["labels"].items()} == {"verb": [3, 4], "noun": [7, 8]}
    (batch,) = batches(VideoDataset(samples=labelled(None, 2), clip_spec=SPEC))
    assert batch["labels"].tolist() == [-1, 2]
    with pytest.raises(XViTError, match="expected the same tasks for all samples"):
        VideoDataset(samples=labelled(1, {"verb": 1}), clip_spec=SPEC)


def test_multi_label_targets(samples):
    multi_label = [replace(samples[0], label=label) for label in [(0, 2), (), (1,)]]
    dataset = VideoDataset(samples=multi_label, clip_spec=SPEC, augment=AUGMENT, class_names=["x", "y", "z"])
    (batch,) = batches(dataset)
    assert torch.equal(batch["labels"], torch.tensor([[1.0, 0, 1], [0, 0, 0], [0, 1, 0]]))
    with pytest.raises(XViTError, match="need the class names"):
        VideoDataset(samples=multi_label, clip_spec=SPEC)


def test_a_flipped_clip_gets_the_label_of_its_mirror_image(samples):
    names = ["to the left", "still", "to the right"]
    flip_pairs = AugmentConfig(scale_jitter=(1, 1))
    task_names = {"way": names, "what": ["left", "hand"]}
    task_sample = replace(samples[1], label={"way": 2, "what": 0})

    def items(augment, sample, class_names=None):
        dataset = VideoDataset(samples=[sample], clip_spec=SPEC, augment=augment, class_names=class_names)
        for epoch in range(12):
            dataset.set_epoch(epoch)
            yield dataset[0]

    always, never = (AugmentConfig(scale_jitter=(1, 1), horizontal_flip=share) for share in (1, 0))
    outcomes = set()
    for item, mirror, plain, two_tasks in zip(
        items(flip_pairs, samples[0], names),
        items(always, samples[0]),
        items(never, samples[0]),
        items(flip_pairs, task_sample, task_names),
        strict=True,
    ):
        flipped = torch.equal(item.pixels, mirror.pixels)
        assert flipped or torch.equal(item.pixels, plain.pixels)
        assert (item.label, mirror.label, plain.label) == (2 if flipped else 0, 0, 0)
        assert two_tasks.label == {"way": 0 if flipped else 2, "what": 0}
        outcomes.add(flipped)
    assert outcomes == {True, False}
    assert {item.label for item in items(flip_pairs, replace(samples[0], label=None), names)} == {None}
    assert {item.label for item in items(flip_pairs, replace(samples[0], label=1), names)} == {1}


@pytest.mark.parametrize(
    ("settings", "names"),
    [({}, None), ({}, ["to the left", "still"]), ({"flip_pairs": False}, ["to the left", "to the right"])],
)
def test_a_flipped_clip_keeps_its_label_if_nothing_says_what_its_mirror_image_is(samples, settings, names):
    augment = AugmentConfig(horizontal_flip=1, **settings)
    assert VideoDataset(samples=samples[:1], clip_spec=SPEC, augment=augment, class_names=names)[0].label == 0


@pytest.mark.parametrize(
    ("settings", "expected"),
    [({}, "moving_left and moving_right"), ({"flip_pairs": False}, ""), ({"horizontal_flip": 0}, "")],
)
def test_exchanged_classes_are_named(settings, expected):
    text = describe_flip_pairs(
        AugmentConfig(**settings), {"way": ["moving_left", "still", "moving_right"], "what": ["x"]}
    )
    assert text.removeprefix("mirrored clips count as the other class of a pair: ") == expected


def test_a_segment_of_a_video(samples):
    def numbers(start, stop):
        sample = Sample(path=samples[2].path, label=0, id="a", start=start, stop=stop)
        item = VideoDataset(samples=[sample], clip_spec=SPEC)[0]
        if item.error:
            return item.error.reason
        return [read_number(frame.permute(1, 2, 0).numpy()) for frame in item.pixels[0]]

    # 25 frames per second, 30 frames: frame 10 is at 0.4 s
    assert numbers(None, None) == [3, 11, 18, 26]
    assert numbers(0.4, 0.56) == [10, 11, 12, 13]
    assert numbers(0.4, None) == [12, 17, 22, 27]
    assert numbers(None, 0.16) == [0, 1, 2, 3]
    assert numbers(0.401, 0.402) == [11, 11, 11, 11]
    assert numbers(9.0, 9.5) == "starts at 9 s, but the video ends at 1.2 s"


def test_large_videos_are_shrunk_while_decoding(tmp_path, monkeypatch):
    path = write_video(tmp_path / "large.mp4", frames=8, width=200, height=160)
    short_sides = []
    read_clip = reading.read_clip

    def record(*args, **options):
        short_sides.append(options["short_side"])
        return read_clip(*args, **options)

    monkeypatch.setattr(reading, "read_clip", record)
    large = [Sample(path=str(path), label=0, id="large")]
    assert VideoDataset(samples=large, clip_spec=SPEC)[0].pixels.shape == (1, 4, 3, 32, 32)
    assert VideoDataset(samples=large, clip_spec=SPEC, augment=AUGMENT)[0].pixels.shape == (4, 3, 32, 32)
    assert short_sides == [32, 48]


def test_a_dataset_can_be_pickled(samples):
    dataset = VideoDataset(samples=samples, clip_spec=SPEC, augment=AUGMENT, seed=1)
    dataset.set_epoch(4)
    copy = pickle.loads(pickle.dumps(dataset))
    assert torch.equal(copy[1].pixels, dataset[1].pixels)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_video_that_hangs_is_reported(samples, monkeypatch, num_workers):
    read_clip = reading.read_clip

    def hang(path, *args, **options):
        if path == samples[2].path:
            threading.Event().wait()  # forever
        return read_clip(path, *args, **options)

    def call(read, path, timeout):
        """On a busy machine, the others may take long."""
        return call_with_timeout(read, path, timeout if path == samples[2].path else 600)

    (expected,) = batches(VideoDataset(samples=samples, clip_spec=SPEC), batch_size=8)
    monkeypatch.setattr(reading, "read_clip", hang)
    monkeypatch.setattr(reading, "call_with_timeout", call)
    monkeypatch.setattr("xvit.data.timeout._GRACE", 0.0)
    dataset = VideoDataset(samples=samples, clip_spec=SPEC, decode_timeout=0.1)
    (batch,) = batches(dataset, batch_size=8, num_workers=num_workers)
    assert batch["errors"].pop(2).reason == "not read within 0.1 s (data.decode_timeout)"
    assert batch["errors"].keys() == expected["errors"].keys()
    others = expected["indices"] != 2
    assert torch.equal(batch["indices"], expected["indices"][others])
    assert torch.equal(batch["pixels"], expected["pixels"][others])


@pytest.mark.parametrize("values", [{"samples": []}, {"temporal_views": 0}, {"spatial_views": 0}, {"seed": -1}])
def test_values_out_of_range(values, samples):
    with pytest.raises(XViTError, match=f"{next(iter(values))}="):
        VideoDataset(**{"samples": samples, "clip_spec": SPEC} | values)


def test_folders_of_frames_with_frame_rates_of_their_own(tmp_path):
    folder = write_frames(tmp_path / "v", frames=100, width=64)

    def numbers(**segment):
        item = VideoDataset(samples=[Sample(path=str(folder), label=0, id="v", **segment)], clip_spec=SPEC)[0]
        return item.error.reason if item.error else [read_number(f.permute(1, 2, 0).numpy()) for f in item.pixels[0]]

    assert numbers(start=1.0, stop=1.08, fps=50.0) == [50, 51, 52, 53]
    assert numbers(start=1.0, stop=1.08, fps=25.0) == [25, 25, 26, 26]
    assert numbers(start=1.0, stop=1 + 4 / 30) == [30, 31, 32, 33]
    assert numbers(start=9.0, fps=50.0) == "starts at 9 s, but the video ends at 2 s"


@pytest.fixture(scope="module")
def same_motion(tmp_path_factory):
    """The same motion of 4 seconds at several frame rates, a constant one first."""
    root = tmp_path_factory.mktemp("rates")
    paths = {name: root / f"{name}{suffix}" for suffix in (".mp4", ".mkv") for name in RATES}
    for path in paths.values():
        write_steps(path, RATES[path.stem])
    return [Sample(path=str(path), label=0, id=name, fps=None) for name, path in paths.items()]


def numbers(pixels: torch.Tensor) -> list[int]:
    return [read_number(frame.permute(1, 2, 0).numpy()) for frame in pixels.flatten(0, -4)]


@pytest.mark.parametrize("sampling", ["segments", "strided", "pyslowfast_segments", "pyslowfast_strided"])
def test_videos_of_any_rate_give_the_same_frames(same_motion, sampling):
    spec = replace(SPEC, num_frames=8, sampling=sampling, stride=2, image_size=64, frame_rate=8.0)
    testing = VideoDataset(samples=same_motion, clip_spec=spec, temporal_views=3)
    expected = numbers(testing[0].pixels)
    assert len(set(expected)) > 8
    for index in range(len(same_motion)):
        assert numbers(testing[index].pixels) == expected, same_motion[index]
        assert testing[index].warnings == ()


@pytest.mark.parametrize("sampling", ["segments", "strided"])
def test_parts_of_videos_of_any_rate_give_the_same_frames(same_motion, sampling):
    spec = replace(SPEC, num_frames=8, sampling=sampling, image_size=64, frame_rate=8.0)
    parts = [replace(sample, start=1.0, stop=3.0) for sample in same_motion if sample.id != "varying"]
    dataset = VideoDataset(samples=parts, clip_spec=spec)
    first = numbers(dataset[0].pixels)
    assert first[0] >= 8
    for index in range(len(parts)):
        assert numbers(dataset[index].pixels) == first, parts[index]


def test_a_video_that_is_too_slow_is_reported(same_motion, tmp_path):
    slow = Sample(path=str(write_steps(tmp_path / "slow.mp4", [index / 4 for index in range(16)])), label=0, id="slow")
    spec = replace(SPEC, num_frames=8, sampling="strided", frame_rate=8.0)
    for augment in (None, NO_AUGMENTATION):
        dataset = VideoDataset(samples=[same_motion[0], slow], clip_spec=spec, augment=augment)
        batch = dataset.collate([dataset[0], dataset[1]])
        assert batch["warnings"] == {1: ("4 frames per second, but the model was trained on 8: frames are repeated",)}
