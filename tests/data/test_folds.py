"""Dividing a data set into folds."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xvit.data.annotations import Sample
from xvit.data.folds import split_folds
from xvit.utils.errors import XViTError


def samples_of(counts):
    names = [(label, index) for label, count in enumerate(counts) for index in range(count)]
    return [Sample(path=f"/x/{label}/{index}.mp4", label=label, id=f"{label}/{index}.mp4") for label, index in names]


@given(st.lists(st.integers(2, 30), min_size=1, max_size=6), st.integers(2, 7), st.integers(0, 3))
def test_each_video_is_in_one_fold_and_classes_are_divided_evenly(counts, folds, seed):
    samples = samples_of(counts)
    if len(samples) < folds:
        with pytest.raises(XViTError, match=rf"folds={folds}: expected at most one per video, {len(samples)}"):
            split_folds(samples, folds, seed=seed)
        return
    parts = split_folds(samples, folds, seed=seed)
    assert sorted(index for part in parts for index in part) == list(range(len(samples)))
    assert all(part == sorted(part) for part in parts)
    sizes = [len(part) for part in parts]
    assert max(sizes) - min(sizes) <= 1
    for label in range(len(counts)):
        in_fold = [sum(samples[index].label == label for index in part) for part in parts]
        assert max(in_fold) - min(in_fold) <= 1
    assert parts == split_folds(samples, folds, seed=seed)


@given(st.lists(st.tuples(st.integers(0, 8), st.integers(0, 2)), min_size=9, max_size=40), st.integers(2, 3))
def test_segments_of_a_video_stay_together(rows, folds):
    samples = [
        Sample(path=f"/x/{video}.mp4", label={"verb": label}, id=f"{number}", start=float(number), stop=number + 1.0)
        for number, (video, label) in enumerate(rows)
    ]
    if len({sample.path for sample in samples}) < folds:
        return
    parts = split_folds(samples, folds)
    assert sorted(index for part in parts for index in part) == list(range(len(samples)))
    folds_of = Counter((samples[index].path, fold) for fold, part in enumerate(parts) for index in part)
    assert len(folds_of) == len({sample.path for sample in samples})


def test_the_order_depends_on_the_seed_and_links_stay_with_their_file(tmp_path):
    samples = samples_of([20, 20])
    assert split_folds(samples, 4, seed=0) != split_folds(samples, 4, seed=1)
    file = tmp_path / "a.mp4"
    file.touch()
    (tmp_path / "b.mp4").symlink_to(file)
    linked = [Sample(path=str(tmp_path / name), label=0, id=name) for name in ("a.mp4", "b.mp4")]
    [part] = [part for part in split_folds([*samples, *linked], 4) if 40 in part]
    assert 41 in part


def test_a_class_with_one_video_is_refused():
    with pytest.raises(XViTError, match=r"1/0\.mp4: the only video of its class"):
        split_folds(samples_of([5, 1]), 2)
