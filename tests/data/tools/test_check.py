"""`xvit data check`: every kind of bad file is named, the others are listed, and nothing is half-written."""

import json
import multiprocessing
import os
import re
import signal
import time
from pathlib import Path

import pytest

from helpers.barcode_videos import corrupt, truncate, write_audio, write_frames, write_video
from helpers.files import write
from xvit.cli.main import main
from xvit.config import DataConfig
from xvit.data.annotations.formats import DatasetSplits, load_splits
from xvit.data.annotations.samples import Sample
from xvit.data.tools.check import check_data
from xvit.utils.errors import XViTError
from xvit.utils.parallel import check_stop, parallel_map
from xvit.visualize.plots import plot_data


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """Class folders with good and bad files. Not to be written to."""
    root = tmp_path_factory.mktemp("check") / "videos"
    (root / "put down").mkdir(parents=True)
    (root / "take").mkdir()
    good = write_video(root / "put down/1.mp4", frames=40)
    write_video(root / "put down/a b, c.mp4", frames=12)
    write_video(root / "take/1.mp4", frames=20)
    write_video(root / "take/slow.mp4", frames=20, fps=5)
    write_video(root / "take/short.mp4", frames=5)
    write_frames(root / "take/frames", frames=10)
    write_frames(root / "take/broken frames", frames=10)
    (root / "take/broken frames/frame_0000000005.jpg").write_bytes(b"none")
    write_audio(root / "take/sound.mp4")
    (root / "take/text.mp4").write_text("no video")
    (root / "take/empty.mp4").touch()
    truncate(root / "take/cut.mp4", write_video(root.parent / "fast.mp4", kind="h264-faststart"), fraction=0.6)
    corrupt(root / "take/noise.mp4", good)
    (root / "take/link.mp4").symlink_to(root / "nowhere.mp4")
    return root


BAD = {
    "take/cut.mp4": "cut short",
    "take/empty.mp4": "unreadable",
    "take/short.mp4": "too short",
    "take/sound.mp4": "unreadable",
    "take/text.mp4": "unreadable",
}
FULL = {"take/broken frames": "damaged", "take/noise.mp4": "damaged"}
GOOD = ["put down/1.mp4", "put down/a b, c.mp4", "take/1.mp4", "take/frames", "take/slow.mp4"]


@pytest.mark.parametrize(("full", "num_workers"), [(False, 0), (True, 2)])
def test_every_kind_of_bad_file(full, num_workers, root):
    told = []
    data = load_splits(DataConfig(root=str(root), val_fraction=0))
    report = check_data(data, full=full, num_workers=num_workers, on_progress=lambda *done: told.append(done))
    bad = {problem.id: problem.kind for problem in report.problems}
    assert bad == BAD | FULL if full else BAD.items() <= bad.items()
    assert set(bad) <= set(BAD | FULL)
    assert [sample.id for sample in report.data.train if sample.id not in FULL] == GOOD
    assert all("\n" not in str(problem) and problem.reason for problem in report.problems)
    assert [Path(file.path).name for file in report.odd] == ["slow.mp4"]
    assert told == [(done, 12) for done in range(1, 13)]
    files = {Path(file.path).name: file for file in report.files}
    assert (files["1.mp4"].frames, files["1.mp4"].width, files["1.mp4"].codec) == (20, 96, "h264")
    assert (files["frames"].frames, files["frames"].fps) == (10, 30)
    assert report.counts()[None]["train"]["put down"] == 2


def test_the_reason_names_the_picture_and_the_numbers(root):
    report = check_data(load_splits(DataConfig(root=str(root), val_fraction=0)), full=True, num_frames=13)
    reasons = {problem.id: problem.reason for problem in report.problems}
    assert reasons["take/broken frames"] == "frame_0000000005.jpg: not a JPEG or PNG image"
    assert reasons["put down/a b, c.mp4"] == "12 frames, a clip needs 13"
    assert "frames are present" in reasons["take/cut.mp4"]


def test_stretches_of_a_long_video_are_judged_each(tmp_path):
    path = str(write_video(tmp_path / "long.mp4", frames=100))  # 4 s
    times = {"good": (0.0, 1.0), "short": (1.0, 1.2), "behind": (5.0, 6.0), "open": (3.0, None), "over": (3.9, 9.0)}
    samples = [
        Sample(path=path, label={"verb": 1, "noun": 0}, id=name, start=start, stop=stop)
        for name, (start, stop) in times.items()
    ]
    labels = {"verb": ["a", "b"], "noun": ["c"]}
    report = check_data(DatasetSplits(train=samples, val=[], class_names=labels, missing=["gone"]))
    assert len(report.files) == 1
    assert {problem.id: str(problem) for problem in report.problems} == {
        "gone": "gone: missing: annotated, but not there",
        "short": f"{path}: too short: 5 frames from 1 to 1.2 s, a clip needs 8",
        "behind": f"{path}: too short: starts at 5 s, but ends at 4 s",
        "over": f"{path}: too short: 2 frames from 3.9 to 9 s, a clip needs 8",
    }
    assert report.counts() == {"verb": {"train": {"a": 0, "b": 2}}, "noun": {"train": {"c": 2}}}
    assert report.kinds == {"missing": 1, "too short": 3}


def test_the_report_and_the_list_that_is_read_back(root, tmp_path, capfd):
    out = tmp_path / "report"
    words = ["data", "check", "--data.root", str(root), "--data.num_workers", "0", "--full"]
    assert main([*words, "--output", str(out)]) == 1
    said, error = capfd.readouterr()
    assert error == ""
    assert "frame_0000000005.jpg: not a JPEG or PNG image" in said
    assert sorted(path.name for path in out.iterdir()) == [
        *("labels.json", "pictures", "report.html", "report.json", "train.txt", "val.txt"),
    ]
    told = json.loads((out / "report.json").read_text())
    assert told["kinds"] == {"damaged": 2, "cut short": 1, "unreadable": 3, "too short": 1}
    assert told["usable"]["train"] + told["usable"]["val"] == len(GOOD) == told["samples"] - told["bad"]
    page = (out / "report.html").read_text()
    assert "broken frames" in page
    pictures = set(re.findall(r'src="([^"]+)"', page))
    assert pictures == {f"pictures/{path.name}" for path in (out / "pictures").iterdir()}
    assert len(pictures) >= 3

    lists = ["--data.format", "list", "--data.label_files", str(out / "labels.json")]
    lists += ["--data.train", str(out / "train.txt"), "--data.val", str(out / "val.txt")]
    assert main([*words, *lists, "--json"]) == 0
    again = json.loads(capfd.readouterr().out)
    assert (again["counts"], again["problems"]) == (told["counts"], [])
    assert main([*words, "--output", str(out)]) == 2
    assert "not an empty folder" in capfd.readouterr().err


def test_epic_rows_that_are_usable(tmp_path, capfd):
    head = "narration_id,participant_id,video_id,start_timestamp,stop_timestamp,verb_class,noun_class\n"
    rows = [
        "a,P01,P01_01,00:00:00,00:00:01,1,2\n",
        "b,P01,P01_01,00:00:09,00:00:10,1,2\n",
        "c,P01,P01_2,0:0:0,0:0:1,1,2\n",
    ]
    write_video(tmp_path / "P01_01.MP4")
    path = write(tmp_path / "all.csv", head + "".join(rows))
    verbs, nouns = write(tmp_path / "v.csv", "id,key\n0,lift\n1,stir\n"), write(tmp_path / "n.txt", "lid\njar\nsoup\n")
    words = ["data", "check", "--data.root", str(tmp_path), "--data.format", "epic", "--data.val", path]
    words += ["--data.label_files", f"[{verbs},{nouns}]"]
    assert main([*words, "--data.num_workers", "0", "--output", str(tmp_path / "out")]) == 1
    said = capfd.readouterr().out
    assert "P01_2" in said
    assert "1 missing, 1 too short" in said
    assert (tmp_path / "out/val.csv").read_text() == head + rows[0]
    assert (tmp_path / "out/pictures/classes_noun.png").exists()
    assert json.loads((tmp_path / "out/report.json").read_text())["counts"] == {
        "verb": {"val": {"lift": 0, "stir": 1}},
        "noun": {"val": {"lid": 0, "jar": 0, "soup": 1}},
    }


@pytest.mark.parametrize("classes", [1, 40, 200])
def test_a_chart_of_any_number_of_classes(classes, tmp_path):
    counts = {part: {f"class ${number}": number % 7 for number in range(classes)} for part in ("train", "val")}
    plot_data(
        counts, {"seconds": [1.0, 2.0, 2.5], "frames a second": [25.0], "none": []}, tmp_path / "a.png", title="a"
    )
    plot_data({}, {}, tmp_path / "b.png")
    for name in ("a.png", "b.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


def test_names_of_files_are_text_in_the_page(tmp_path, capfd):
    for name in ("a/<b>&.mp4", "a/1.mp4", "c/1.mp4"):
        (tmp_path / "videos" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "videos" / name).write_text("no video")
    words = ["data", "check", "--data.root", str(tmp_path / "videos"), "--data.num_workers", "0"]
    assert main([*words, "--output", str(tmp_path / "out")]) == 1, "not one usable video is a result too"
    page = (tmp_path / "out/report.html").read_text()
    assert "&lt;b&gt;&amp;.mp4" in page
    assert "<b>&" not in page


def test_mistakes_are_told_in_one_line(tmp_path, capfd):
    assert main(["data", "check"]) == 2
    assert "--data.root: missing" in capfd.readouterr().err
    assert main(["data", "check", "--data.root", str(tmp_path / "no")]) == 2
    assert "no such folder" in capfd.readouterr().err
    with pytest.raises(XViTError, match="num_frames=0"):
        check_data(DatasetSplits(train=[], val=[], class_names=["a"], missing=[]), num_frames=0)


def _die(job: int) -> int:
    if job == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return job * job


def test_work_is_done_in_order_and_a_killed_worker_is_told():
    assert parallel_map(_die, [0, 1, 2, 4], num_workers=0) == [0, 1, 4, 16]
    assert parallel_map(_die, [], num_workers=2) == []
    with pytest.raises(XViTError, match="a worker process was killed"):
        parallel_map(_die, [0, 1, 2, 3, 4], num_workers=1)
    with pytest.raises(XViTError, match="num_workers=-1"):
        parallel_map(_die, [1], num_workers=-1)


def _long(job: int) -> int:
    for _ in range(1000 * (job > 0)):
        time.sleep(0.01)
        check_stop()
    return job


def test_a_stop_ends_the_workers_too():
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    started = time.perf_counter()
    with pytest.raises(KeyboardInterrupt):
        parallel_map(_long, range(20), num_workers=1, on_progress=stop)
    assert time.perf_counter() - started < 8, "a job takes 10 s"
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("where", ["xvit.data.tools.check.check_file", "xvit.cli.data_report.write_page"])
def test_ctrl_c_leaves_nothing(where, root, tmp_path, monkeypatch, capfd):
    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(where, stop)
    words = ["data", "check", "--data.root", str(root), "--data.num_workers", "0", "--output", str(tmp_path / "out")]
    assert main(words) == 130
    out, error = capfd.readouterr()
    assert (out, error) == ("", "xvit: stopped. Run the same command to start again.\n")
    assert list(tmp_path.iterdir()) == []
