"""The number of threads: cores and quotas of cgroups, the user's choice, small models; waiting threads sleep."""

import os
import sys
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xvit.utils import threads

MANY = 64  # cores of the fake machine


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A function that writes a fake machine of 64 cores and returns the number of cores of this process there.

    Its arguments: /proc/self/cgroup, the lines of mountinfo, and the contents of files by their paths.
    """
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(MANY)), raising=False)

    def machine(cgroup: str, mounts: list[str], files: dict[str, str]) -> int:
        mountinfo = "".join(f"3{index} 2{index} 0:26 {mount}\n" for index, mount in enumerate(mounts))
        for path, text in {"proc/self/cgroup": cgroup, "proc/self/mountinfo": mountinfo, **files}.items():
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).write_text(text)
        return threads.available_cores(tmp_path)

    return machine


V2 = "/ /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate"
V1 = "/ /sys/fs/cgroup/cpu,cpuacct rw shared:10 - cgroup cgroup rw,cpu,cpuacct"


@pytest.mark.parametrize(
    ("maximum", "expected"),
    [
        ("max 100000", MANY),
        ("200000 100000", 2),
        ("250000 100000", 2),
        ("50000 100000", 1),
        ("1000 100000", 1),
        ("30000 10000", 3),
        ("99999999 100000", MANY),
        ("100000 0", MANY),
        ("", MANY),
        ("garbage", MANY),
    ],
)
def test_quota_of_version_2(machine, maximum, expected):
    assert machine("0::/app\n", [V2], {"sys/fs/cgroup/app/cpu.max": f"{maximum}\n"}) == expected


@pytest.mark.parametrize(
    ("quota", "period", "expected"), [("-1", "100000", MANY), ("300000", "100000", 3), ("75000", "50000", 1)]
)
def test_quota_of_version_1(machine, quota, period, expected):
    folder = "sys/fs/cgroup/cpu,cpuacct/app"
    files = {f"{folder}/cpu.cfs_quota_us": f"{quota}\n", f"{folder}/cpu.cfs_period_us": f"{period}\n"}
    assert machine("4:memory:/other\n3:cpu,cpuacct:/app\n1:name=systemd:/else\n", [V1], files) == expected


@given(quotas=st.lists(st.none() | st.integers(1, 100), min_size=1, max_size=5), version=st.sampled_from([1, 2]))
def test_the_smallest_quota_of_all_ancestors_counts(tmp_path_factory, quotas, version):
    """Quotas in tenths of a core, from the top cgroup to that of the process."""
    root = tmp_path_factory.mktemp("root")
    own_path = "".join(f"/level {depth}" for depth in range(1, len(quotas)))
    lines = {1: f"7:cpu,cpuacct:{own_path or '/'}\n", 2: f"0::{own_path or '/'}\n"}
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(lines[version])
    (root / "proc/self/mountinfo").write_text(f"31 23 0:26 {V1}\n32 23 0:27 {V2}\n")
    folder = root / {1: "sys/fs/cgroup/cpu,cpuacct", 2: "sys/fs/cgroup"}[version]
    for depth, tenths in enumerate(quotas):
        folder = folder / f"level {depth}" if depth else folder
        folder.mkdir(parents=True, exist_ok=True)
        quota = None if tenths is None else tenths * 10_000
        if version == 2:
            (folder / "cpu.max").write_text(f"{quota or 'max'} 100000\n")
        else:
            (folder / "cpu.cfs_quota_us").write_text(f"{quota or -1}\n")
            (folder / "cpu.cfs_period_us").write_text("100000\n")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    given_quotas = [tenths // 10 for tenths in quotas if tenths is not None]
    assert threads.available_cores(root) == max(min([cores, *given_quotas]), 1)


@pytest.mark.parametrize(
    ("own_path", "mounted"),
    [
        ("/docker/a1", "/docker/a1"),  # a container without a cgroup namespace sees the host's path
        ("/docker/a1", "/docker/a1/inner"),
        ("/../other", "/"),  # a process outside of its namespace
        ("/", "/"),
    ],
)
def test_a_container_sees_its_own_cgroup_at_the_mount_point(machine, own_path, mounted):
    mount = V2.replace("/ ", f"{mounted} ", 1)
    assert machine(f"0::{own_path}\n", [mount], {"sys/fs/cgroup/cpu.max": "400000 100000\n"}) == 4


def test_mount_point_with_a_space(machine):
    mount = V2.replace("/sys/fs/cgroup", r"/my\040groups")
    assert machine("0::/a\n", [mount], {"my groups/a/cpu.max": "300000 100000\n"}) == 3


def test_version_2_beside_version_1(machine):
    """A hybrid system: processor time is limited by version 1 while version 2 is mounted for systemd."""
    files = {
        "sys/fs/cgroup/cpu,cpuacct/app/cpu.cfs_quota_us": "200000\n",
        "sys/fs/cgroup/cpu,cpuacct/app/cpu.cfs_period_us": "100000\n",
    }
    mounts = [V1, V2.replace("/sys/fs/cgroup", "/sys/fs/cgroup/unified")]
    assert machine("3:cpu,cpuacct:/app\n0::/user.slice\n", mounts, files) == 2


def test_a_system_without_cgroups(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3, 5}, raising=False)
    assert threads.available_cores(tmp_path) == 2
    monkeypatch.delattr(os, "sched_getaffinity")  # macOS, Windows
    monkeypatch.setattr(os, "cpu_count", lambda: 7)
    assert threads.available_cores(tmp_path) == 7


@pytest.fixture
def torch_threads(monkeypatch):
    """The numbers that torch is given. The machine has 8 cores, and the user has chosen nothing."""
    numbers = []
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(set_num_threads=numbers.append))
    monkeypatch.setattr(threads, "available_cores", lambda: 8)
    monkeypatch.setattr(threads, "_USER_CHOICE", "")
    monkeypatch.setattr(threads, "_automatic", False)
    monkeypatch.setenv("OMP_NUM_THREADS", "")
    return numbers


@pytest.mark.parametrize(
    ("option", "variable", "expected"),
    [
        (None, "", 8),
        (3, "", 3),
        (None, "2", 2),
        (3, "2", 3),
        (None, " 4,2", 4),
        (None, "012", 12),
        (None, "0", 8),
        (None, "-1", 8),
        (None, "many", 8),
    ],
)
@pytest.mark.parametrize("macs", [threads.SMALL_MODEL_MACS - 1, threads.SMALL_MODEL_MACS])
def test_option_then_variable_then_cores(torch_threads, monkeypatch, option, variable, expected, macs):
    monkeypatch.setattr(threads, "_USER_CHOICE", variable)
    for _ in range(2):  # a second command in the same process
        threads.configure(option)
        assert (os.environ["OMP_NUM_THREADS"], torch_threads) == (str(expected), [expected])
        threads.limit_threads(macs)
        chosen_by_us = expected == 8
        assert torch_threads[1:] == ([1] if chosen_by_us and macs < threads.SMALL_MODEL_MACS else [])
        torch_threads.clear()


def test_a_program_that_imports_xvit_keeps_its_threads(torch_threads):
    threads.limit_threads(1)
    assert torch_threads == []


def test_a_users_wait_policy_is_kept(monkeypatch):
    for name in ("OMP_WAIT_POLICY", "KMP_BLOCKTIME"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    threads.sleep_while_waiting()
    assert (os.environ["OMP_WAIT_POLICY"], os.environ.get("KMP_BLOCKTIME")) == ("active", None)
    monkeypatch.delenv("OMP_WAIT_POLICY")
    threads.sleep_while_waiting()
    assert (os.environ["OMP_WAIT_POLICY"], os.environ["KMP_BLOCKTIME"]) == ("passive", "0")


def test_the_model_of_the_built_in_recipe_is_small_and_a_vit_tiny_is_not():
    import torch

    from xvit.config import ModelConfig, RunConfig, find_recipe, read_config
    from xvit.models.profiling import count_macs
    from xvit.models.xvit import XViT

    small = XViT(read_config(RunConfig, find_recipe("motion")).model)
    with torch.device("meta"):
        tiny = XViT(ModelConfig(backbone="vit_tiny_patch16_224"))
    assert small.approximate_macs < threads.SMALL_MODEL_MACS < tiny.approximate_macs
    for model in (small, tiny):
        exact = count_macs(model) / model.config.num_frames
        assert model.approximate_macs == pytest.approx(exact, rel=0.2)


def test_nothing_above_the_mount_point_is_read(machine):
    mount = V2.replace("/ ", "/docker/a1/inner ", 1)
    files = {"sys/fs/cgroup/cpu.max": "400000 100000\n", "sys/fs/cpu.max": "100000 100000\n"}
    assert machine("0::/docker/a1\n", [mount], files) == 4
