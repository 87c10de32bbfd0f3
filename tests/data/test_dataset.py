import pickle
import time
from collections import namedtuple
from dataclasses import replace

import pytest
import torch
from torchvision.transforms.v2 import functional as F

from helpers.barcode_videos import read_number, write_video
from helpers.color_videos import COLOURS
from xvit.config import AugmentConfig, ClipSpec, DataConfig
from xvit.data import dataset as module
from xvit.data.annotations.samples import Sample
from xvit.data.dataset import VideoDataset, make_loader
from xvit.data.decode.video import decode
from xvit.data.sampler import EpochSampler
from xvit.data.sampling import sample_indices
from xvit.utils.errors import VideoError, XViTError

SPEC = ClipSpec(num_frames=4, image_size=32, **COLOURS)
PLAIN = AugmentConfig(scale_jitter=(1, 1), horizontal_flip=0)
VARIED = AugmentConfig(scale_jitter=(1, 1.5), horizontal_flip=0.5, auto_augment="rand", random_erasing=0.5)


@pytest.fixture(scope="module")
def samples(tmp_path_factory) -> list[Sample]:
    folder = tmp_path_factory.mktemp("data")
    for number in range(6):
        write_video(folder / f"{number}.mp4", frames=20 + 5 * number, width=72, height=64)
    (folder / "bad.mp4").write_text("no video")
    names = ["0", "1", "2", "bad", "3", "4", "5", "missing"]
    return [Sample(path=str(folder / f"{n}.mp4"), label=label, id=f"{n}.mp4") for label, n in enumerate(names)]


def batches(dataset, *, epoch=0, **options) -> list[dict]:
    dataset.set_epoch(epoch)
    return list(make_loader(dataset, **{"batch_size": 3} | options))


def assert_equal(ours, theirs) -> None:
    assert len(ours) == len(theirs)
    for one, two in zip(ours, theirs, strict=True):
        for name in ("pixels", "labels", "indices"):
            assert torch.equal(one[name], two[name])
        assert {i: str(error) for i, error in one["errors"].items()} == {
            i: str(error) for i, error in two["errors"].items()
        }


def test_test_views_are_all_crops_of_all_clips(samples):
    spec = ClipSpec(num_frames=4, image_size=32, **COLOURS, sampling="strided", stride=2)
    pixels = VideoDataset(samples=samples, spec=spec, temporal_views=2, spatial_views=3)[5].pixels
    assert pixels.shape == (6, 4, 3, 32, 32)
    for view in range(2):
        indices = sample_indices(spec, 40, view=view, views=2)
        frames = F.resize(decode(samples[5].path, indices).frames, [32], antialias=True)
        for crop, left in enumerate((0, 2, 4)):  # 72 x 64 becomes 36 x 32
            assert torch.equal(pixels[3 * view + crop], frames[..., left : left + 32])


def test_training_clips_are_what_the_seeds_say(samples):
    dataset = VideoDataset(samples=samples, spec=SPEC, augment=PLAIN, seed=5)
    numbers = [read_number(frame.permute(1, 2, 0).numpy()) for frame in dataset[2].pixels]
    assert [number // 7.5 for number in numbers] == [0, 1, 2, 3]  # 30 frames in 4 parts
    drawn = {epoch: clip(dataset, 2, epoch) for epoch in range(5)}
    assert not any(torch.equal(drawn[0], drawn[epoch]) for epoch in range(1, 5))
    assert torch.equal(clip(dataset, 2, 3), drawn[3])
    other = VideoDataset(samples=samples, spec=SPEC, augment=PLAIN, seed=6)
    assert not torch.equal(clip(other, 2, 0), drawn[0])


def clip(dataset, index: int, epoch: int) -> torch.Tensor:
    dataset.set_epoch(epoch)
    return dataset[index].pixels


def test_the_transform_is_drawn_too(samples):
    dataset = VideoDataset(samples=samples, spec=ClipSpec(num_frames=1, image_size=32, **COLOURS), augment=VARIED)
    sides = set()
    for epoch in range(12):
        row = clip(dataset, 5, epoch)[0, :, 4].float().mean(dim=0)
        sides.add(tuple(row.tolist()))
    assert len(sides) > 8


def test_global_random_state_is_left_alone(samples):
    dataset = VideoDataset(samples=samples, spec=SPEC, augment=VARIED)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    batches(dataset, order=EpochSampler(dataset))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.filterwarnings("ignore:This DataLoader will create 4")  # on fewer cores
@pytest.mark.parametrize("num_workers", [1, 4])
@pytest.mark.parametrize("augment", [VARIED, None])
def test_workers_change_nothing(augment, num_workers, samples):
    dataset = VideoDataset(samples=samples, spec=SPEC, augment=augment, spatial_views=1)
    order = EpochSampler(dataset, repeats=2) if augment else None
    none = [batches(dataset, epoch=epoch, order=order) for epoch in (0, 1)]
    loader = make_loader(dataset, batch_size=3, num_workers=num_workers, order=order)
    for epoch in (0, 1, 0):  # the workers live on, and are told of the epoch
        dataset.set_epoch(epoch)
        assert_equal(list(loader), none[epoch])
    if augment:
        assert not torch.equal(none[0][0]["indices"], none[1][0]["indices"])


def test_order_is_a_permutation_drawn_from_seed_and_epoch(samples):
    def order(seed, epoch):
        dataset = VideoDataset(samples=samples, spec=SPEC, augment=VARIED, seed=seed)
        dataset.set_epoch(epoch)
        return list(EpochSampler(dataset))

    orders = [order(seed, epoch) for seed in (0, 1) for epoch in (0, 1)]
    assert all(sorted(one) == list(range(8)) for one in orders)
    assert len({tuple(one) for one in orders}) == 4
    assert order(1, 1) == orders[3]


def test_bad_videos_are_reported_and_not_replaced(samples):
    seen = batches(VideoDataset(samples=samples, spec=SPEC))
    assert [batch["indices"].tolist() for batch in seen] == [[0, 1, 2], [4, 5], [6]]
    assert [batch["labels"].tolist() for batch in seen] == [[0, 1, 2], [4, 5], [6]]
    assert [len(batch["pixels"]) for batch in seen] == [3, 2, 1]
    errors = {index: error for batch in seen for index, error in batch["errors"].items()}
    assert sorted(errors) == [3, 7]
    assert all(isinstance(error, VideoError) for error in errors.values())
    assert errors[7].reason == "no such file"
    assert all(error.__traceback__ is error.__context__ is None for error in errors.values()), "they hold no memory"


def test_a_batch_of_bad_videos_is_empty(samples):
    bad = [samples[3], samples[7]]
    (batch,) = batches(VideoDataset(samples=bad, spec=SPEC, spatial_views=3))
    assert batch["pixels"].shape == (0, 3, 4, 3, 32, 32)
    assert batch["pixels"].dtype == torch.uint8
    assert batch["labels"].shape == batch["indices"].shape == (0,)
    assert sorted(batch["errors"]) == [0, 1]
    (batch,) = batches(VideoDataset(samples=bad, spec=SPEC, augment=VARIED))
    assert batch["pixels"].shape == (0, 4, 3, 32, 32)


def test_labels_of_several_tasks_and_unknown_ones(samples):
    def labelled(*labels):
        return [Sample(path=samples[0].path, label=label, id=str(i)) for i, label in enumerate(labels)]

    tasks = labelled({"verb": 3, "noun": 7}, {"noun": 8, "verb": 4})
    (batch,) = batches(VideoDataset(samples=tasks, spec=SPEC))
    assert {task: labels.tolist() for task, labels in batch["labels"].items()} == {"verb": [3, 4], "noun": [7, 8]}
    (batch,) = batches(VideoDataset(samples=labelled(None, 2), spec=SPEC))
    assert batch["labels"].tolist() == [-1, 2]
    with pytest.raises(XViTError, match="the same for all"):
        VideoDataset(samples=labelled(1, {"verb": 1}), spec=SPEC)


def test_a_mirrored_clip_gets_the_label_of_its_mirror_image(samples):
    names = ["to the left", "still", "to the right"]
    pairs = AugmentConfig(scale_jitter=(1, 1), flip_pairs=True)
    several = {"way": names, "what": ["left", "hand"]}
    labelled = replace(samples[1], label={"way": 2, "what": 0})

    def items(augment, sample, labels=None):
        dataset = VideoDataset(samples=[sample], spec=SPEC, augment=augment, class_names=labels)
        for epoch in range(12):
            dataset.set_epoch(epoch)
            yield dataset[0]

    always, never = (AugmentConfig(scale_jitter=(1, 1), horizontal_flip=share) for share in (1, 0))
    seen = set()
    for item, mirror, plain, two in zip(
        items(pairs, samples[0], names),
        items(always, samples[0]),
        items(never, samples[0]),
        items(pairs, labelled, several),
        strict=True,
    ):
        mirrored = torch.equal(item.pixels, mirror.pixels)
        assert mirrored or torch.equal(item.pixels, plain.pixels)
        assert (item.label, mirror.label, plain.label) == (2 if mirrored else 0, 0, 0)
        assert two.label == {"way": 0 if mirrored else 2, "what": 0}
        seen.add(mirrored)
    assert seen == {True, False}
    assert {item.label for item in items(pairs, replace(samples[0], label=None), names)} == {None}
    assert {item.label for item in items(pairs, replace(samples[0], label=1), names)} == {1}


def test_flip_pairs_needs_a_pair(samples):
    pairs = DataConfig(flip_pairs=True)
    with pytest.raises(XViTError, match="needs the class names"):
        VideoDataset(samples=samples, spec=SPEC, augment=pairs)
    with pytest.raises(XViTError, match="with left and right exchanged"):
        VideoDataset(samples=samples, spec=SPEC, augment=pairs, class_names=["to the left", "still"])
    assert VideoDataset(samples=samples, spec=SPEC, class_names=["still"])[0].label == 0


def test_a_stretch_of_a_video(samples):
    def numbers(start, stop):
        sample = Sample(path=samples[2].path, label=0, id="a", start=start, stop=stop)
        item = VideoDataset(samples=[sample], spec=SPEC)[0]
        if item.error:
            return item.error.reason
        return [read_number(frame.permute(1, 2, 0).numpy()) for frame in item.pixels[0]]

    # 25 frames a second, 30 frames: 0.4 s is frame 10
    assert numbers(None, None) == [3, 11, 18, 26]
    assert numbers(0.4, 0.56) == [10, 11, 12, 13]
    assert numbers(0.4, None) == [12, 17, 22, 27]
    assert numbers(None, 0.16) == [0, 1, 2, 3]
    assert numbers(0.401, 0.402) == [11, 11, 11, 11]
    assert numbers(9.0, 9.5) == "starts at 9 s, but ends at 1.2 s"


def test_large_videos_are_shrunk_while_decoding(tmp_path, monkeypatch):
    path = write_video(tmp_path / "large.mp4", frames=8, width=200, height=160)
    asked = []
    read = module.read_clip
    monkeypatch.setattr(module, "read_clip", lambda *args, **kw: asked.append(kw["short_side"]) or read(*args, **kw))
    sample = [Sample(path=str(path), label=0, id="large")]
    assert VideoDataset(samples=sample, spec=SPEC)[0].pixels.shape == (1, 4, 3, 32, 32)
    assert VideoDataset(samples=sample, spec=SPEC, augment=VARIED)[0].pixels.shape == (4, 3, 32, 32)
    assert asked == [32, 48]


def test_dataset_survives_pickling(samples):
    dataset = VideoDataset(samples=samples, spec=SPEC, augment=VARIED, seed=1)
    dataset.set_epoch(4)
    copy = pickle.loads(pickle.dumps(dataset))
    assert torch.equal(copy[1].pixels, dataset[1].pixels)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_video_that_hangs_is_given_up(samples, monkeypatch, num_workers):
    read = module.read_clip

    def hang(path, *args, **options):
        if path == samples[2].path:
            time.sleep(5)
        return read(path, *args, **options)

    began = time.monotonic()
    expected = batches(VideoDataset(samples=samples, spec=SPEC), batch_size=8)[0]
    monkeypatch.setattr(module, "read_clip", hang)
    seen = batches(VideoDataset(samples=samples, spec=SPEC, decode_timeout=0.5), batch_size=8, num_workers=num_workers)[
        0
    ]
    assert time.monotonic() - began < 5
    assert seen["errors"].pop(2).reason == "not read within 0.5 s (data.decode_timeout)"
    assert seen["errors"].keys() == expected["errors"].keys()
    others = expected["indices"] != 2
    assert torch.equal(seen["indices"], expected["indices"][others])
    assert torch.equal(seen["pixels"], expected["pixels"][others])


def test_too_little_shared_memory_is_said(samples, monkeypatch):
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: usage(1_000_000))
    monkeypatch.setattr(module, "_SHARED_MEMORY", module.Path("/"))
    dataset = VideoDataset(samples=samples, spec=ClipSpec(image_size=224, **COLOURS), augment=VARIED)
    make_loader(dataset, batch_size=16)
    with pytest.raises(XViTError, match=r"1 MB free, but the batches of 2 loader workers need 96 MB"):
        make_loader(dataset, batch_size=16, num_workers=2)


@pytest.mark.parametrize("values", [{"samples": []}, {"temporal_views": 0}, {"spatial_views": 0}, {"seed": -1}])
def test_wrong_numbers(values, samples):
    with pytest.raises(XViTError, match=f"{next(iter(values))}="):
        VideoDataset(**{"samples": samples, "spec": SPEC} | values)
    with pytest.raises(XViTError, match="batch_size=0"):
        make_loader(VideoDataset(samples=samples, spec=SPEC), batch_size=0)
