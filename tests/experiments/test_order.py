"""The order of frames: against loops over clips and frames, and the symmetries of the attention schemes."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from helpers.color_videos import CLASSES, FRAMES, SIZE, make_model, with_metadata, write_videos
from helpers.streams import add_noise
from helpers.tiny import random_clip, tiny_model
from xvit.config import DataConfig
from xvit.data.annotations import Sample, load_splits
from xvit.data.synthetic import motion
from xvit.experiments.order import run
from xvit.experiments.order.compare import (
    AS_IS,
    NO_CHANGE,
    REORDERED,
    REVERSED,
    SHUFFLED,
    STILL,
    SWAPPED,
    Change,
    Share,
    TaskOrder,
    compare_orders,
    find_twins,
    frame_orders,
    logit_changes,
    motion_pairs,
    order_logits,
)
from xvit.experiments.order.run import build_peers, measure_order, untrained_copy
from xvit.utils.errors import XViTError


def draw_orders(clips: torch.Tensor) -> list[dict[str, np.ndarray]]:
    return [frame_orders(clips.shape[1], np.random.default_rng(index)) for index in range(len(clips))]


def weigh_frames(weights: np.ndarray):
    """A model of K classes whose logits are weighted sums over the frames' mean colours; weights (K, T, C)."""

    def model(clips: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(np.einsum("btc,ktc->bk", clips.mean(dim=(3, 4)).numpy(), weights))

    return model


@given(st.integers(3, 20), st.integers(0, 2**32 - 1))
def test_orders(T, seed):
    orders = frame_orders(T, np.random.default_rng(seed))
    as_is = list(range(T))
    assert list(orders) == [AS_IS, REVERSED, SWAPPED, SHUFFLED, STILL]
    assert orders[AS_IS].tolist() == [as_is]
    assert orders[REVERSED].tolist() == [as_is[::-1]]
    for order in orders[SHUFFLED].tolist():
        assert sorted(order) == as_is
        assert order not in (as_is, as_is[::-1])
    [swapped] = orders[SWAPPED].tolist()
    first, second = [t for t in as_is if swapped[t] != t]
    assert (second - first, swapped[first], swapped[second]) == (1, second, first)
    assert orders[STILL].tolist() == [[T // 2] * T]
    again = frame_orders(T, np.random.default_rng(seed))
    assert all((again[kind] == order).all() for kind, order in orders.items())


def test_two_frames_have_no_third_order():
    with pytest.raises(XViTError, match=r"num_frames=2: the order of frames matters from 3 on"):
        frame_orders(2, np.random.default_rng(0))


def test_logits_and_changes_are_those_of_a_loop():
    clips, rng = random_clip(5, (4, 4), B=3).double(), np.random.default_rng(0)
    weights = rng.normal(size=(7, 5, 3))
    orders = draw_orders(clips)
    [logits] = order_logits(weigh_frames(weights), clips, orders).values()
    colours, expected = clips.mean(dim=(3, 4)).numpy(), {}
    for kind in orders[0]:
        expected[kind] = np.array(
            [
                [
                    [sum(colours[b, order[t]] @ weights[k, t] for t in range(5)) for k in range(7)]
                    for order in orders[b][kind]
                ]
                for b in range(3)
            ]
        )
        np.testing.assert_allclose(logits[kind].numpy(), expected[kind], rtol=1e-9)
    changes = logit_changes(logits)
    assert list(changes) == [*REORDERED, STILL]
    spread = expected[AS_IS].std()
    for kind, change in changes.items():
        differences = [
            abs(expected[kind][b, n, k] - expected[AS_IS][b, 0, k]) / spread
            for b in range(3)
            for n in range(len(orders[0][kind]))
            for k in range(7)
        ]
        assert change.largest == pytest.approx(max(differences))
        assert change.median == pytest.approx(sorted(differences)[(len(differences) - 1) // 2])


def test_a_mean_over_the_frames_ignores_their_order():
    clips = random_clip(6, (4, 4), B=2).double()
    weights = np.repeat(np.random.default_rng(1).normal(size=(4, 1, 3)), 6, axis=1)
    changes = logit_changes(order_logits(weigh_frames(weights), clips, draw_orders(clips))["label"])
    assert max(changes[kind].largest for kind in REORDERED) < 1e-12
    assert changes[STILL].largest > 0.1


def test_logits_without_a_scale_or_value():
    clips = random_clip(3, (4, 4))
    with pytest.raises(XViTError, match="the same logit to every clip and class"):
        logit_changes(order_logits(lambda clips: torch.ones(len(clips), 2), clips, draw_orders(clips))["label"])
    with pytest.raises(XViTError, match="NaN or infinite"):
        order_logits(lambda clips: torch.full((len(clips), 2), float("nan")), clips, draw_orders(clips))


def test_accuracies_are_those_of_a_loop():
    """Random logits of 40 clips and 5 classes, of which 0 and 3, and 1 and 4 are twins."""
    generator = torch.Generator().manual_seed(0)
    labels, twins = torch.randint(0, 5, (40,), generator=generator), torch.tensor([3, 4, -1, 0, 1])
    sizes = {AS_IS: 1, REVERSED: 1, SWAPPED: 1, SHUFFLED: 3, STILL: 1}
    logits = {kind: torch.randn(40, n, 5, generator=generator).double() for kind, n in sizes.items()}
    logits[AS_IS][torch.arange(40), 0, labels] += 2
    result = compare_orders(logits, logits, labels, twins)
    paired = [b for b in range(40) if labels[b] != 2]
    right = {kind: np.zeros((40, n)) for kind, n in sizes.items()}
    leads = {kind: np.zeros((40, n)) for kind, n in sizes.items()}
    as_twin = np.zeros(40)
    for b, label in enumerate(labels.tolist()):
        twin = {0: 3, 3: 0, 1: 4, 4: 1, 2: 2}[label]
        for kind, n in sizes.items():
            for i in range(n):
                row = logits[kind][b, i].tolist()
                right[kind][b, i] = row.index(max(row)) == label
                leads[kind][b, i] = row[label] > row[twin]
        row = logits[REVERSED][b, 0].tolist()
        as_twin[b] = row.index(max(row)) == twin
    for kind in sizes:
        assert result.top1[kind] == Share(share=pytest.approx(right[kind].mean()), clips=40)
        assert result.pair_accuracy[kind] == Share(share=pytest.approx(leads[kind][paired].mean()), clips=len(paired))
    assert result.reversed_as_twin == Share(share=pytest.approx(as_twin[paired].mean()), clips=len(paired))
    as_is, backwards = right[AS_IS][:, 0], right[REVERSED][:, 0]
    assert result.only_as_is == sum((as_is == 1) & (backwards == 0))
    assert result.only_reversed == sum((as_is == 0) & (backwards == 1))
    without_twins = compare_orders(logits, logits, labels, torch.full((5,), -1))
    assert without_twins.top1 == result.top1
    assert (without_twins.pair_accuracy, without_twins.reversed_as_twin) == ({}, None)
    assert compare_orders(logits, logits).top1 == {}


def make_result(reversed_change: float, change: float, right: tuple[int, int] | None = None) -> TaskOrder:
    """Of 100 clips, so many right as they are only, and so many reversed only."""
    changes = {kind: Change(median=0, largest=change) for kind in (SWAPPED, SHUFFLED, STILL)}
    changes[REVERSED] = Change(median=0, largest=reversed_change)
    if right is None:
        return TaskOrder(changes=changes, untrained=changes)
    top1 = {AS_IS: Share(share=right[0] / 100, clips=100), REVERSED: Share(share=right[1] / 100, clips=100)}
    return TaskOrder(changes=changes, untrained=changes, top1=top1, only_as_is=right[0], only_reversed=right[1])


@pytest.mark.parametrize(
    ("result", "conclusion"),
    [
        (
            make_result(1e-7, 3e-7, (50, 50)),
            "This model ignores the order of frames: its logits change by at most 3e-07",
        ),
        (
            make_result(1e-7, 0.25, (50, 50)),
            "This model cannot tell a clip from its reverse: its logits change by at most",
        ),
        (make_result(0.1, 0.25), "The order of frames changes this model's logits, by up to 0.2"),
        (
            make_result(0.1, 0.2, (80, 19)),
            "The model uses the order of frames: reversing the clips costs 61.0 points of",
        ),
        (make_result(0.1, 0.2, (10, 8)), "but reversing these 100 clips has no clear cost (+2.0 points of top-1)"),
        (make_result(0.1, 0.2, (0, 0)), "but reversing these 100 clips has no clear cost (+0.0 points of top-1)"),
        (make_result(0.1, 0.2, (8, 30)), "but reversing these 100 clips has no clear cost (-22.0 points of top-1)"),
    ],
)
def test_conclusion(result, conclusion):
    assert conclusion in result.conclusion


def test_a_picture_held_still_is_no_use_of_the_order():
    result = make_result(0.0, 0.0, (50, 50))
    result.changes[STILL] = Change(median=1, largest=2)
    assert "ignores the order" in result.conclusion


SETS = [
    {"attention": "spatial"},
    {"attention": "spatial", "temporal_head": "mean"},
    {"attention": "spatial", "summary_tokens": 1},
    {"attention": "joint"},
    {"attention": "divided"},
]


def changes_of(model) -> dict[str, Change]:
    clips = random_clip(6)
    return logit_changes(order_logits(model, clips, draw_orders(clips))["label"])


@pytest.mark.parametrize("options", SETS)
def test_these_schemes_start_blind_to_the_order(options):
    changes = changes_of(tiny_model(num_frames=6, **options))
    assert max(changes[kind].largest for kind in REORDERED) < 1e-5
    assert changes[STILL].largest > 0.1
    positions = changes_of(add_noise(tiny_model(num_frames=6, **options)))
    assert min(positions[kind].largest for kind in REORDERED) > NO_CHANGE
    always = changes_of(add_noise(tiny_model(num_frames=6, **options, temporal_position="none")))
    assert max(always[kind].largest for kind in REORDERED) < 1e-5


def test_local_attention_is_blind_to_the_reverse_only():
    for model in (
        tiny_model(num_frames=6, attention="local"),
        add_noise(tiny_model(num_frames=6, attention="local", temporal_position="none")),
    ):
        changes = changes_of(model)
        assert changes[REVERSED].largest < 1e-5
        assert changes[SHUFFLED].largest > NO_CHANGE


@pytest.mark.parametrize(
    "options",
    [{}, {"temporal_head": "mean"}, {"causal": True}, {"temporal_padding": "replicate"}, {"mix_ratio": 1.0}],
)
def test_mixing_sees_the_order_from_the_start(options):
    changes = changes_of(tiny_model(num_frames=6, **options))
    assert min(changes[kind].largest for kind in REORDERED) > 10 * NO_CHANGE


def test_twins():
    assert find_twins(["a", "b", "c"], [("c", "a")])["label"].tolist() == [2, -1, 0]
    tasks = {"verb": ["open", "close"], "noun": ["door", "lid"]}
    twins = find_twins(tasks, [("open", "close")])
    assert {task: values.tolist() for task, values in twins.items()} == {"verb": [1, 0], "noun": [-1, -1]}


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ([("opened", "close")], r'class "opened" is not one of the 4 classes of the model. Did you mean "open"\?'),
        ([("open", "door")], '"open" and "door": expected two different classes of one task'),
        ([("open", "open")], '"open" and "open": expected two different classes of one task'),
        ([("open", "close"), ("close", "open")], 'class "close" is in two pairs'),
    ],
)
def test_mistakes_in_pairs(pairs, message):
    with pytest.raises(XViTError, match=message):
        find_twins({"verb": ["open", "close"], "noun": ["door", "lid"]}, pairs)


def test_pairs_of_the_built_in_data_set():
    assert ("approaching", "receding") in motion_pairs([*motion.CLASSES, "background"])
    assert len(motion_pairs(list(motion.CLASSES))) == 6
    assert motion_pairs(list(motion.CLASSES[1:])) == []


def test_the_untrained_copy_is_the_same_each_time_and_leaves_randomness_alone():
    model = add_noise(make_model())
    first = untrained_copy(model)
    torch.manual_seed(7)
    state = torch.get_rng_state()
    second = untrained_copy(model)
    assert torch.equal(torch.get_rng_state(), state)
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name])
    assert not torch.equal(first.classifier.fc["label"].weight, model.classifier.fc["label"].weight)


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Colour videos, of which one cannot be read."""
    root = write_videos(tmp_path_factory.mktemp("colours"), train=1, val=2)
    (root / "val" / "green" / "1.mp4").write_bytes(b"no video")
    return root


@pytest.fixture
def samples(videos) -> list[Sample]:
    return load_splits(DataConfig(root=str(videos))).val


NO_WORKERS = DataConfig(num_workers=0)


def test_videos_in_any_batches(samples, monkeypatch):
    monkeypatch.setattr(run, "_UNTRAINED_CLIPS", 3)
    model = with_metadata(add_noise(make_model()), list(CLASSES))
    seen: list[int] = []

    def peer(clips: torch.Tensor) -> torch.Tensor:
        seen.append(len(clips))
        return clips.mean(dim=(1, 3, 4))

    options = {"pairs": [("blue", "red")], "peers": {"mean": peer}, "data": NO_WORKERS}
    progress = []
    one, two = (
        measure_order(model, samples, batch_size=n, on_progress=lambda *counts: progress.append(counts), **options)
        for n in (2, 5)
    )
    assert (one.clips, one.untrained_clips, len(one.failures)) == (5, 3, 1)
    assert one.failures[0].path.endswith("green/1.mp4")
    assert progress == [(2, 6), (4, 6), (6, 6), (5, 6), (6, 6)]
    orders_per_clip = 7
    assert sum(seen) == 2 * 3 * orders_per_clip  # the same clips, however they are batched
    for task, other in zip(one.tasks.values(), two.tasks.values(), strict=True):
        assert task.top1 == other.top1
        assert task.pair_accuracy[AS_IS].clips == 4
        for kind, change in task.changes.items():
            assert change.largest == pytest.approx(other.changes[kind].largest, rel=1e-4)
            assert change.median == pytest.approx(other.changes[kind].median, rel=1e-3)
    assert max(one.peers["mean"][kind].largest for kind in REORDERED) < 1e-5
    other_seed = measure_order(model, samples, data=NO_WORKERS, seed=1).tasks["label"].changes
    assert other_seed[SHUFFLED].median != pytest.approx(one.tasks["label"].changes[SHUFFLED].median, rel=1e-3)
    assert other_seed[REVERSED].largest == pytest.approx(one.tasks["label"].changes[REVERSED].largest, rel=1e-4)


def test_labels_that_cannot_be_compared_are_left_out(samples):
    model = with_metadata(make_model(), list(CLASSES))
    for label in (None, (0, 2)):
        unlabelled = [Sample(path=sample.path, id=sample.id, label=label) for sample in samples[:1]]
        task = measure_order(model, unlabelled, data=NO_WORKERS).tasks["label"]
        assert (task.top1, task.pair_accuracy) == ({}, {})
        assert task.changes[REVERSED].largest > 0


def test_several_tasks(samples):
    tasks = {"verb": ["open", "close"], "noun": list(CLASSES)}
    model = with_metadata(add_noise(make_model({"verb": 2, "noun": 3})), tasks)
    labelled = [
        Sample(path=sample.path, id=sample.id, label={"verb": index % 2, "noun": sample.label})
        for index, sample in enumerate(samples[:2])
    ]
    result = measure_order(model, labelled, pairs=[("open", "close")], data=NO_WORKERS)
    assert list(result.tasks) == ["verb", "noun"]
    assert result.tasks["verb"].pair_accuracy[AS_IS].clips == 2
    assert result.tasks["noun"].pair_accuracy == {}
    assert result.tasks["noun"].top1[SHUFFLED].clips == 2


def test_no_video_can_be_read(tmp_path):
    sample = Sample(path=str(tmp_path / "none.mp4"), id="none", label=None)
    with pytest.raises(XViTError, match=r"none of 1 videos could be read; the first: .*none.mp4"):
        measure_order(with_metadata(make_model(), list(CLASSES)), [sample], data=NO_WORKERS)


def test_peers_take_the_clips_of_the_model():
    model = with_metadata(make_model(), list(CLASSES))
    clips = torch.randn(2, FRAMES, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    peers = build_peers(model)
    assert list(peers) == ["TimeSformer", "ViViT", "VideoMAE"]
    assert [peer.model.config.patch_size for peer in (peers["TimeSformer"], peers["VideoMAE"])] == [8, 8]
    blind = {
        name: logit_changes(order_logits(peer, clips, draw_orders(clips))["label"])[REVERSED].largest < 1e-4
        for name, peer in peers.items()
    }
    assert blind == {"TimeSformer": True, "ViViT": False, "VideoMAE": False}
