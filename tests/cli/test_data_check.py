"""`xvit data check`."""

import json
import re
from pathlib import Path

import pytest

from helpers.bad_dataset import USABLE, write_bad_dataset
from helpers.barcode_videos import write_video
from helpers.files import write
from xvit.cli.main import main


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return write_bad_dataset(tmp_path_factory.mktemp("check") / "videos")


def test_report_and_lists_of_the_usable_videos(root, tmp_path, capfd):
    output = tmp_path / "report"
    args = ["data", "check", "--data.root", str(root), "--data.num_workers", "0", "--full"]
    assert main([*args, "--output", str(output)]) == 1
    out, error = capfd.readouterr()
    assert error == ""
    assert re.search(rf"left out +broken link: 1 \({re.escape(str(root / 'take/link.mp4'))}\)", out)
    assert "frame_0000000005.jpg: not a JPEG or PNG image" in out
    assert sorted(path.name for path in output.iterdir()) == [
        *("labels.json", "pictures", "report.html", "report.json", "train.txt", "val.txt"),
    ]
    report = json.loads((output / "report.json").read_text())
    assert report["kinds"] == {"damaged": 2, "cut short": 1, "unreadable": 3, "too short": 1}
    assert (
        report["usable"]["train"] + report["usable"]["val"] == len(USABLE) == report["samples"] - report["num_problems"]
    )
    page = (output / "report.html").read_text()
    assert "broken frames" in page
    pictures = set(re.findall(r'src="([^"]+)"', page))
    assert pictures == {f"pictures/{path.name}" for path in (output / "pictures").iterdir()}
    assert len(pictures) >= 3

    lists = ["--data.format", "list", "--data.label_files", str(output / "labels.json")]
    lists += ["--data.train", str(output / "train.txt"), "--data.val", str(output / "val.txt")]
    assert main([*args, *lists, "--json"]) == 0
    again = json.loads(capfd.readouterr().out)
    assert (again["counts"], again["problems"]) == (report["counts"], [])
    assert main([*args, "--output", str(output)]) == 2
    assert "not an empty directory" in capfd.readouterr().err


def test_usable_epic_rows(tmp_path, capfd):
    head = "narration_id,participant_id,video_id,start_timestamp,stop_timestamp,verb_class,noun_class\n"
    rows = [
        "a,P01,P01_01,00:00:00,00:00:01,1,2\n",
        "b,P01,P01_01,00:00:09,00:00:10,1,2\n",
        "c,P01,P01_2,0:0:0,0:0:1,1,2\n",
    ]
    write_video(tmp_path / "P01_01.MP4")
    path = write(tmp_path / "all.csv", head + "".join(rows))
    verbs, nouns = write(tmp_path / "v.csv", "id,key\n0,lift\n1,stir\n"), write(tmp_path / "n.txt", "lid\njar\nsoup\n")
    args = ["data", "check", "--data.root", str(tmp_path), "--data.format", "epic", "--data.val", path]
    args += ["--data.label_files", f"[{verbs},{nouns}]"]
    assert main([*args, "--data.num_workers", "0", "--output", str(tmp_path / "out")]) == 1
    out = capfd.readouterr().out
    assert "P01_2" in out
    assert "1 missing, 1 too short" in out
    assert (tmp_path / "out/val.csv").read_text() == head + rows[0]
    assert (tmp_path / "out/pictures/classes_noun.png").exists()
    assert json.loads((tmp_path / "out/report.json").read_text())["counts"] == {
        "verb": {"val": {"lift": 0, "stir": 1}},
        "noun": {"val": {"lid": 0, "jar": 0, "soup": 1}},
    }


def test_file_names_are_escaped_in_the_page(tmp_path, capfd):
    for name in ("a/<b>&.mp4", "a/1.mp4", "c/1.mp4"):
        (tmp_path / "videos" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "videos" / name).write_text("no video")
    args = ["data", "check", "--data.root", str(tmp_path / "videos"), "--data.num_workers", "0"]
    assert main([*args, "--output", str(tmp_path / "out")]) == 1, "a data set without usable videos is reported too"
    page = (tmp_path / "out/report.html").read_text()
    assert "&lt;b&gt;&amp;.mp4" in page
    assert "<b>&" not in page


def test_invalid_arguments_give_a_one_line_error(tmp_path, capfd):
    assert main(["data", "check"]) == 2
    assert "--data.root or --input: missing" in capfd.readouterr().err
    assert main(["data", "check", "--data.root", str(tmp_path / "no")]) == 2
    assert "no such folder" in capfd.readouterr().err


@pytest.mark.parametrize("where", ["xvit.data.tools.check.check_file", "xvit.cli.data_report.write_page"])
def test_ctrl_c_leaves_no_files(where, root, tmp_path, monkeypatch, capfd):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(where, stop)
    args = ["data", "check", "--data.root", str(root), "--data.num_workers", "0", "--output", str(tmp_path / "out")]
    assert main(args) == 130
    out, error = capfd.readouterr()
    assert (out, error) == ("", "xvit: stopped. Run the same command to start again.\n")
    assert list(tmp_path.iterdir()) == []


def test_class_and_split_problems_are_listed_with_all_others(run, tmp_path):
    root = tmp_path / "videos"
    video = write_video(tmp_path / "good.mp4", frames=12)
    for number, name in enumerate(("train/a/1", "train/a/2", "val/a/3", "train/b/1", "val/only val/1", "test/a/4")):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / f"{name}.mp4").write_bytes(video.read_bytes() + bytes(number))  # copies of different contents
    (root / "train/empty").mkdir()
    (root / "val/a/link.mp4").symlink_to(root / "train/a/1.mp4")
    (root / "test/a/copy.mp4").write_bytes((root / "train/a/2.mp4").read_bytes())
    (root / "train/a/text.mp4").write_text("no video")
    code, out, err = run("data", "check", "--data.root", root, "--data.num_workers", 0, "--json")
    report = json.loads(out)
    assert (code, err) == (1, "")
    assert {
        (problem["kind"], problem["id"].removeprefix(f"{root}/"), problem["reason"]) for problem in report["problems"]
    } == {
        ("classes", "train/empty", "a class without videos: add videos or remove the folder"),
        ("classes", 'class "only val"', "no training videos, only validation videos"),
        ("classes", 'class "b"', "only one video: it cannot be split, and none is left for validation"),
        ("in two splits", "val/a/link.mp4", "also in training: train/a/1.mp4"),
        ("unreadable", "train/a/text.mp4", next(p["reason"] for p in report["problems"] if p["kind"] == "unreadable")),
    }
    assert report["usable"] == {"train": 3, "val": 2, "test": 2}
    assert report["copies"] == [{"first": "train/a/2.mp4", "second": "test/a/copy.mp4", "where": "two splits"}]
    code, out, _ = run("data", "check", "--data.root", root, "--data.num_workers", 0)
    assert re.search(r"classes without a usable validation video +b *\n", out)
    assert re.search(r"classes without a usable training video +empty, only val *\n", out)


def test_copies_are_named_by_where_they_are(run, tmp_path):
    root, video = tmp_path / "videos", write_video(tmp_path / "good.mp4", frames=12).read_bytes()
    contents = {  # train/b/2 has the size and the beginning of three others, train/b/3 the size of two
        "train/a/1": video + bytes(2**16) + b"1", "train/a/2": video + bytes(2**16) + b"1",
        "train/b/1": video + bytes(2**16) + b"1", "train/b/2": video + bytes(2**16) + b"2",
        "train/a/3": video + b"3", "train/b/3": video + b"4", "val/a/1": video + b"3", "val/b/1": video + b"5",
    }  # fmt: skip
    for name, content in contents.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / f"{name}.mp4").write_bytes(content)
    words = ["data", "check", "--data.root", root, "--data.num_workers", 0]
    code, out, err = run(*words, "--json")
    assert (code, err) == (0, "")
    assert [tuple(copy.values()) for copy in json.loads(out)["copies"]] == [
        ("train/a/1.mp4", "train/a/2.mp4", "one class"),
        ("train/a/1.mp4", "train/b/1.mp4", "two classes"),
        ("train/a/3.mp4", "val/a/1.mp4", "two splits"),
    ]
    code, out, _ = run(*words)
    for where, names in (
        ("one class", "train/a/1.mp4 = train/a/2.mp4"),
        ("two classes", "train/a/1.mp4 = train/b/1.mp4"),
        ("two splits", "train/a/3.mp4 = val/a/1.mp4"),
    ):
        assert re.search(f"same contents in {where} +{re.escape(names)} *\n", out)


def test_list_problems_are_listed_with_all_others(run, tmp_path):
    (tmp_path / "videos").mkdir()
    video = write_video(tmp_path / "videos/1.mp4", frames=12)
    for number in range(2, 6):
        (video.parent / f"{number}.mp4").write_bytes(video.read_bytes() + bytes(number))
    train = write(tmp_path / "train.txt", "1.mp4 1\n2.mp4 2\ngone.mp4 1\n3.mp4 1\n4.mp4 2\n")
    val = write(tmp_path / "val.txt", "5.mp4 3\n")
    words = ["data", "check", "--data.root", video.parent, "--data.format", "list", "--data.num_workers", 0]
    code, out, err = run(*words, "--data.train", train, "--data.val", val, "--json")
    problems = {(problem["kind"], problem["id"]) for problem in json.loads(out)["problems"]}
    assert (code, err) == (1, "")
    assert problems == {("classes", train), ("classes", 'class "3"'), ("missing", "gone.mp4")}


def test_a_test_split_gets_its_own_list(run, tmp_path):
    video = write_video(tmp_path / "good.mp4", frames=12)
    for name in ("a", "b"):
        (tmp_path / "videos" / name).mkdir(parents=True)
        for number in range(10):
            (tmp_path / f"videos/{name}/{number}.mp4").write_bytes(video.read_bytes() + f"{name}{number}".encode())
    words = ["data", "check", "--data.root", tmp_path / "videos", "--data.num_workers", 0]
    code, out, err = run(*words, "--data.test_fraction", 0.2, "--output", tmp_path / "report")
    assert (code, err) == (0, "")
    assert "12 for training, 4 for validation, 4 for the test" in out
    lists = {name: (tmp_path / f"report/{name}.txt").read_text().splitlines() for name in ("train", "val", "test")}
    assert {name: len(lines) for name, lines in lists.items()} == {"train": 12, "val": 4, "test": 4}
    assert len({line for lines in lists.values() for line in lines}) == 20
