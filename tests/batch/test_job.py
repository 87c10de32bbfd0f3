"""Jobs of a task without videos: each input has one row, whatever the shards, parts, stops and runners."""

import errno
import io
import json
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import xvit.batch.output as output_module
from helpers.files import limited_file_size, locked_by_another_process
from xvit.batch import Inputs, run_job
from xvit.batch.job import run_local
from xvit.utils.errors import VideoError, WriteError, XViTError


@dataclass
class SquareTask:
    """Squares the number that an input names; an input that names none fails."""

    salt: int = 0
    batch_size: int = 1
    calls: list[list[str]] = field(default_factory=list)

    command = "predict"

    def open(self) -> "SquareTask":
        self.columns = {"square": pa.int64(), "tags": pa.list_(pa.string())}
        return self

    def describe(self) -> dict[str, int]:
        return {"salt": self.salt}

    def values(self, paths: Sequence[str]) -> Iterator[dict | VideoError]:
        self.calls.append(list(paths))
        for path in paths:
            name = path.rpartition("/")[2]
            if name.isdecimal():
                yield {"square": int(name) ** 2 + self.salt, "tags": [name]}
            else:
                yield VideoError(path, f"no number in {name}")


def make_inputs(names: Sequence[str]) -> Inputs:
    return Inputs(paths=list(names), folder="/videos")


def read_rows(output) -> list[dict]:
    paths = sorted((output / "parts").glob("*.parquet"))
    return [row for path in paths for row in pq.read_table(io.BytesIO(path.read_bytes())).to_pylist()]


def raise_error(error: Exception) -> Callable:
    def function(*args, **kwargs):
        raise error

    return function


def expected_rows(names: Sequence[str]) -> list[dict]:
    rows = []
    for index, name in enumerate(names):
        good = name.isdecimal()
        rows.append(
            {
                "index": index,
                "path": name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace"),
                "status": "ok" if good else "failed",
                "error": None if good else f"no number in {rows_name(name)}",
                "square": int(name) ** 2 if good else None,
                "tags": [name] if good else None,
            }
        )
    return rows


def rows_name(name: str) -> str:
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


NAMES = ["3", "1", "bad", "3", "\udcff", "12", "0", "worse", "7", "8"]


@settings(max_examples=30)
@given(
    names=st.lists(st.sampled_from(NAMES), min_size=1, max_size=12),
    part_size=st.integers(1, 5),
    num_shards=st.integers(1, 4),
    seed=st.integers(0, 100),
)
def test_each_input_has_one_row(tmp_path_factory, names, part_size, num_shards, seed):
    """Shards run in any order; each of them is stopped after some parts, and goes on."""
    output = tmp_path_factory.mktemp("job") / "out"
    shards = list(range(num_shards))
    choose = random.Random(seed)
    choose.shuffle(shards)
    rows = 0
    for shard in shards:
        options = {"shard": (shard, num_shards), "part_size": part_size}
        stops = iter(range(choose.randrange(3), 20))

        def stopped(task, worker, parts, folder, stops=stops):
            stop = next(stops)
            parts = choose.sample(parts, len(parts))  # a cluster gives them back in any order
            for count, result in enumerate(run_local(task, worker, parts, folder)):
                if count == stop:
                    raise KeyboardInterrupt
                yield result

        summary = None
        while summary is None:
            with suppress(KeyboardInterrupt):
                summary = run_job(SquareTask(), make_inputs(names), output, runner=stopped, **options)
        numbers = [index for index in range(len(names)) if index // part_size % num_shards == shard]
        failed = [names[index] for index in numbers if not names[index].isdecimal()]
        assert (summary.rows, summary.failed) == (len(numbers), len(failed))
        assert [path for path, _ in summary.failures] == list(map(rows_name, failed))
        rows += summary.rows
    assert rows == len(names)
    assert read_rows(output) == expected_rows(names)


def test_only_the_first_failed_inputs_are_named(tmp_path):
    names = [f"bad{number}" for number in range(25)]
    summary = run_job(SquareTask(), make_inputs(names), tmp_path / "out", part_size=4)
    assert summary.failed == 25
    assert [path for path, _ in summary.failures] == names[:20]


def test_shards_write_the_bytes_of_one_run(tmp_path):
    inputs = make_inputs([str(number) for number in range(23)])
    run_job(SquareTask(), inputs, tmp_path / "one", part_size=4)
    for shard in (2, 0, 1):
        run_job(SquareTask(), inputs, tmp_path / "three", part_size=4, shard=(shard, 3))
    one, three = ({path.name: path.read_bytes() for path in (tmp_path / n).rglob("*.*")} for n in ("one", "three"))
    assert one == three
    assert set(one) == {"job.json", *(f"0000{number}.parquet" for number in range(6))}


def test_a_job_goes_on_with_what_is_missing(tmp_path):
    output, inputs = tmp_path / "out", make_inputs([str(number) for number in range(10)])
    run_job(SquareTask(), inputs, output, part_size=4)
    (output / "parts" / "00001.parquet").unlink()
    (output / ".shard-0-of-1.writing").write_bytes(b"half of it")  # a process that was killed
    task, steps = SquareTask(), []
    summary = run_job(task, inputs, output, part_size=4, on_progress=lambda *step: steps.append(step))
    assert task.calls == [[f"/videos/{number}" for number in range(4, 8)]]
    assert steps == [(6, 10), (10, 10)]
    assert (summary.rows, summary.continued, summary.failed) == (10, 6, 0)
    assert read_rows(output) == expected_rows(inputs.paths)
    task = SquareTask()
    assert run_job(task, inputs, output, part_size=4).continued == 10
    assert sorted(path.name for path in output.iterdir()) == ["job.json", "parts"]
    assert task.calls == []


def test_decoding_goes_on_over_the_ends_of_parts(tmp_path):
    task = SquareTask()
    run_job(task, make_inputs([str(number) for number in range(10)]), tmp_path / "out", part_size=4)
    assert list(map(len, task.calls)) == [10]


def test_decoding_ends_before_the_job_goes_on(tmp_path, monkeypatch):
    """It is not left to the deletion of an iterator, in which Python ignores Ctrl-C."""
    ended = []

    class EndingTask(SquareTask):
        def values(self, paths):
            yield from super().values(paths)
            ended.append(len(paths))

    monkeypatch.setattr("xvit.batch.job._WINDOW", 2)
    run_job(EndingTask(), make_inputs([str(number) for number in range(10)]), tmp_path / "out", part_size=2)
    assert ended == [4, 4, 2]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"task": SquareTask(salt=1)}, "whose task.salt was 0 and is now 1"),
        ({"inputs": make_inputs(["1", "2"])}, "whose inputs.hash was"),
        ({"inputs": Inputs(paths=["1", "3"], folder="/other")}, 'inputs.folder was "/videos" and is now "/other"'),
        ({"part_size": 3}, "whose part_size was 4 and is now 3"),
    ],
)
def test_another_job_is_refused(tmp_path, change, message):
    arguments = {"task": SquareTask(), "inputs": make_inputs(["1", "3"]), "part_size": 4}
    run_job(output=tmp_path / "out", **arguments)
    before = read_rows(tmp_path / "out")
    with pytest.raises(XViTError, match=message):
        run_job(output=tmp_path / "out", **arguments | change)
    assert read_rows(tmp_path / "out") == before


def test_other_versions_are_named_and_go_on(tmp_path, caplog):
    output, inputs = tmp_path / "out", make_inputs(["1"])
    run_job(SquareTask(), inputs, output)
    manifest = json.loads((output / "job.json").read_text())
    manifest["versions"]["torch"] = "1.0"
    (output / "job.json").write_text(json.dumps(manifest))
    assert run_job(SquareTask(), inputs, output).rows == 1
    assert "torch 1.0 (now " in caplog.text


def test_folders_that_hold_something_else(tmp_path):
    inputs = make_inputs(["1"])
    for name in ("notes.txt", "parts.txt"):
        folder = tmp_path / name.partition(".")[0]
        folder.mkdir()
        (folder / name).write_text("mine")
        with pytest.raises(XViTError, match="exists and holds no job"):
            run_job(SquareTask(), inputs, folder)
    (tmp_path / "empty" / "parts").mkdir(parents=True)
    assert run_job(SquareTask(), inputs, tmp_path / "empty").rows == 1
    (tmp_path / "empty" / "job.json").unlink()  # without it, nobody knows what the rows are made of
    with pytest.raises(XViTError, match="exists and holds no job"):
        run_job(SquareTask(), make_inputs(["2"]), tmp_path / "empty")
    (tmp_path / "empty" / "job.json").write_text("{}")
    with pytest.raises(XViTError, match="damaged, or of another version"):
        run_job(SquareTask(), inputs, tmp_path / "empty")


def test_one_process_at_a_time_per_shard(tmp_path):
    inputs = make_inputs(["1", "2"])
    with (
        locked_by_another_process(tmp_path / "out", "xvit predict"),
        pytest.raises(XViTError, match="in use by xvit predict"),
    ):
        run_job(SquareTask(), inputs, tmp_path / "out")
    with locked_by_another_process(tmp_path / "out" / "shard-0-of-2", "xvit predict"):
        assert run_job(SquareTask(), inputs, tmp_path / "out", part_size=1, shard=(1, 2)).rows == 1
        with pytest.raises(XViTError, match="in use by xvit predict"):
            run_job(SquareTask(), inputs, tmp_path / "out", part_size=1, shard=(0, 2))


def test_shards_that_overlap_at_the_same_time(tmp_path, monkeypatch):
    """They start together, and while one of them writes a part, another one writes the same."""
    inputs, output = make_inputs([str(number) for number in range(6)]), tmp_path / "out"
    real_sync, pending = output_module.sync, [(0, 3), (0, 2), (1, 2)]  # in the manifest of one, the parts of another

    def sync(path):
        if pending:
            run_job(SquareTask(), inputs, output, part_size=1, shard=pending.pop())
        real_sync(path)

    monkeypatch.setattr(output_module, "sync", sync)  # of the manifest
    monkeypatch.setattr("xvit.utils.files.sync", sync)  # of the parts
    assert run_job(SquareTask(), inputs, output, part_size=1).rows == 6
    assert not pending
    assert read_rows(output) == expected_rows(inputs.paths)
    assert sorted(path.name for path in output.iterdir()) == ["job.json", "parts"]


def test_two_jobs_that_start_together_in_a_folder(tmp_path, monkeypatch):
    """The second one is refused, though there was nothing in the folder when it looked."""
    other = make_inputs(["2"])
    real_sync, pending = output_module.sync, [(1, 2)]

    def sync(path):
        if pending:
            run_job(SquareTask(), other, tmp_path / "out", shard=pending.pop())
        real_sync(path)

    monkeypatch.setattr(output_module, "sync", sync)
    with pytest.raises(XViTError, match=r"whose inputs\.hash was"):
        run_job(SquareTask(), make_inputs(["1"]), tmp_path / "out")


def test_a_file_system_without_hard_links(tmp_path, monkeypatch):
    monkeypatch.setattr("os.link", raise_error(PermissionError(errno.EPERM, "Operation not permitted")))
    assert run_job(SquareTask(), make_inputs(["1"]), tmp_path / "out").rows == 1
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["job.json", "parts"]


def test_a_damaged_part_is_named(tmp_path):
    inputs = make_inputs(["1", "2"])
    run_job(SquareTask(), inputs, tmp_path / "out", part_size=1)
    part = tmp_path / "out" / "parts" / "00001.parquet"
    part.write_bytes(part.read_bytes()[:100])
    with pytest.raises(XViTError, match=r"00001\.parquet: damaged .*; delete it and run the same command again"):
        run_job(SquareTask(), inputs, tmp_path / "out", part_size=1)
    part.unlink()
    assert run_job(SquareTask(), inputs, tmp_path / "out", part_size=1).rows == 2


@pytest.mark.parametrize("name", ["s3:bucket", "a=1", "x%20#1?y", "new\nline", "\udcff"])
def test_odd_names_of_folders(tmp_path, monkeypatch, name):
    """None of them is an address, also where it is relative."""
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        assert run_job(SquareTask(), make_inputs(["1"]), name).rows == 1
    assert read_rows(tmp_path / name) == expected_rows(["1"])


def test_a_full_disk_loses_no_part_that_is_written(tmp_path):
    class LongTask(SquareTask):
        def values(self, paths):
            for number, value in enumerate(super().values(paths)):
                words = random.Random(0).choices(["abc", "d", "efgh", "ij"], k=100_000)
                yield value | {"tags": words if number == 2 else []}

    inputs = make_inputs(["1", "2", "3"])
    with limited_file_size(20_000), pytest.raises(WriteError, match=r"00002\.parquet: cannot be written"):
        run_job(LongTask(), inputs, tmp_path / "out", part_size=1)
    assert sorted(path.name for path in (tmp_path / "out" / "parts").iterdir()) == ["00000.parquet", "00001.parquet"]


def test_wrong_numbers(tmp_path):
    inputs = make_inputs(["1"])
    for options, message in [
        ({"shard": (3, 3)}, "shard=3"),
        ({"part_size": 0}, "part_size=0"),
        ({"part_size": 6, "task": SquareTask(batch_size=4)}, "part_size=6: expected a multiple of the 4 videos"),
    ]:
        with pytest.raises(XViTError, match=message):
            run_job(**{"task": SquareTask(), "inputs": inputs, "output": tmp_path / "out"} | options)
    assert not (tmp_path / "out").exists()
