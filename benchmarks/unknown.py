"""How far the scores of a calibrated model can be trusted, and how many videos of no class it rejects.

    python benchmarks/unknown.py WORK_FOLDER [--epochs 20]

Three models learn 8 of the 12 classes of the motion data each; the 4 others, two pairs of a motion and its reverse, are
unknown to it. Each pair is held out once. Three sets of videos are drawn independently: for training, for calibration,
which never sees an unknown video, and for the test. Rejected should be: the test videos of the held-out classes, and
noise, flat and still pictures. The threshold of each way to score a clip is that of `xvit calibrate`: it keeps 95 % of
the correctly classified calibration videos. The scores that are compared, high for known clips:

    max probability     of softmax(logits / T)
    max logit           the highest logit
    uncentred energy    log(sum(exp(logits))) (Liu et al., Energy-based out-of-distribution detection, 2020)
    energy              the same, of logits minus their mean, which a softmax ignores; xvit uses it
    clipped energy      the energy, from the embedding with its values clipped at their 90 % quantile (Sun et al.,
                        ReAct, 2021)
    Mahalanobis         minus the distance of the embedding to the nearest class mean (Lee et al., A simple unified
                        framework for detecting out-of-distribution samples, 2018)
    neighbours          similarity to the 10th nearest training clip (Sun et al., Out-of-distribution detection with
                        deep nearest neighbors, 2022)

The bundled model, which knows all classes and background, is calibrated and tested in the same way. Writes
unknown.json and pictures to the work folder. A stopped run continues with the same command.
"""

import argparse
import copy
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from common import log_progress
from xvit import XViT
from xvit.config import SINGLE_TASK, RunConfig, as_task_dict, energies, find_recipe, read_config
from xvit.data.annotations import Sample
from xvit.data.dataset import VideoDataset
from xvit.data.loader import make_loader
from xvit.data.synthetic.background import BACKGROUND
from xvit.data.synthetic.dataset import encode_video, write_motion_dataset
from xvit.data.synthetic.motion import CLASSES, FRAMES, render_clip
from xvit.data.synthetic.shapes import SIZE
from xvit.data.transforms import normalize
from xvit.evaluation.calibration import calibrate, choose_threshold, measure_reliability
from xvit.training import fit
from xvit.utils.files import atomic_directory, write_json
from xvit.utils.timing import one_thread
from xvit.utils.version import library_versions
from xvit.visualize import plot_rejection, plot_reliability

KEEP = 0.95
SEEDS = {"train": 30, "calibration": 31, "test": 32}
HELD_OUT = {
    "drifting": ("moving_left", "moving_right", "moving_up", "moving_down"),
    "growing": ("approaching", "receding", "appearing", "disappearing"),
    "meeting": ("two_shapes_meeting", "two_shapes_parting", "hiding_behind", "coming_out_from_behind"),
}
ODD_VIDEOS = 100  # of each kind

Score = Callable[[np.ndarray, np.ndarray], np.ndarray]  # of logits (N, K) and embeddings (N, D): (N,)


def draw_odd(kind: str, rng: np.random.Generator) -> np.ndarray:
    """A video (T, H, W, 3), uint8, in which nothing happens that has a name."""
    shape = (FRAMES, SIZE, SIZE)
    grey = rng.integers(0, 256, (*shape, 1)).repeat(3, axis=-1)
    still = grey[:1].repeat(FRAMES, axis=0)
    frames = {
        "grey noise": lambda: grey,
        "coloured noise": lambda: rng.integers(0, 256, (*shape, 3)),
        "still noise": lambda: still,
        "black": lambda: np.zeros((*shape, 3)),
        "one colour": lambda: np.ones((*shape, 3)) * rng.integers(0, 256, 3),
        "still picture": lambda: render_clip(str(rng.choice(CLASSES)), rng)[[FRAMES // 2]].repeat(FRAMES, axis=0),
    }[kind]()
    return np.asarray(frames).astype(np.uint8)


ODD = ("grey noise", "coloured noise", "still noise", "black", "one colour", "still picture")


def write_data(work: Path) -> None:
    """Write the videos that are not there yet."""
    for name, seed in SEEDS.items():
        if not (work / name).exists():
            log_progress(f"writing the videos for {name}")
            clips, share = (340, 0.2) if name == "train" else (100, 1.0)
            background = name != "train"  # which only the bundled model knows
            write_motion_dataset(
                work / name, clips_per_class=clips, val_fraction=share, seed=seed, background=background
            )
    if not (work / "odd").exists():
        rng = np.random.default_rng(33)
        with atomic_directory(work / "odd") as folder:
            for kind in ODD:
                (folder / kind).mkdir()
                for index in range(ODD_VIDEOS):
                    encode_video(draw_odd(kind, rng), folder / kind / f"{index:03d}.mp4")
    for group, held_out in HELD_OUT.items():  # the training videos of the other classes
        for split in ("train", "val"):
            folder = work / f"without_{group}" / split
            folder.mkdir(parents=True, exist_ok=True)
            for name in CLASSES:
                if name not in held_out and not (folder / name).exists():
                    (folder / name).symlink_to((work / "train" / split / name).resolve())


def train(work: Path, group: str, epochs: int) -> XViT:
    """The model that does not know the classes of a group."""
    recipe = read_config(RunConfig, find_recipe("motion"))
    recipe = replace(
        recipe,
        data=replace(recipe.data, root=str(work / f"without_{group}"), num_workers=0),
        train=replace(recipe.train, epochs=epochs),
    )

    def show(progress: Any) -> None:
        if progress.validation is not None:
            log_progress(f"without {group}, epoch {progress.epoch} of {epochs}: {progress.validation}")

    return XViT.from_pretrained(fit(recipe, work / f"run_{group}", resume=True, on_progress=show).last)


def samples_in(folder: Path, class_names: list[str]) -> list[Sample]:
    """The videos of class folders. Those of other classes have no label."""
    paths = sorted(path for name in folder.iterdir() for path in name.resolve().glob("*.mp4"))
    labels = [class_names.index(p.parent.name) if p.parent.name in class_names else None for p in paths]
    return [Sample(path=str(p), label=label, id=p.parent.name) for p, label in zip(paths, labels, strict=True)]


@torch.inference_mode()
def outputs(model: XViT, samples: list[Sample]) -> tuple[np.ndarray, np.ndarray]:
    """Logits (N, K) and embeddings (N, D) of the centre views."""
    dataset = VideoDataset(samples=[replace(s, label=None) for s in samples], clip_spec=model.clip_spec)
    logits: list[Tensor] = []
    embeddings: list[Tensor] = []
    with closing(make_loader(dataset, batch_size=32, num_workers=0)) as loader:
        for batch in loader:
            features = model.forward_features(normalize(batch["pixels"][:, 0], model.clip_spec))
            embeddings.append(features.clip_embedding)
            logits.append(as_task_dict(model.classifier(features.clip_embedding))[SINGLE_TASK])
    return torch.cat(logits).numpy(), torch.cat(embeddings).numpy()


def make_scores(model: XViT, temperature: float, known: tuple[np.ndarray, list[Sample]]) -> dict[str, Score]:
    """The ways to score a clip. `known` are the embeddings of the training videos, and these."""
    embeddings, samples = known
    labels = np.array([sample.label for sample in samples])
    means = np.stack([embeddings[labels == k].mean(axis=0) for k in np.unique(labels)])
    covariance = np.cov((embeddings - means[labels]).T)
    covariance = 0.9 * covariance + 0.1 * np.trace(covariance) / len(covariance) * np.eye(len(covariance))
    inverse, limit = np.linalg.inv(covariance), np.quantile(embeddings, 0.9, axis=0)
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    layer = copy.deepcopy(model.classifier).requires_grad_(False)

    def mahalanobis(logits: np.ndarray, x: np.ndarray) -> np.ndarray:
        distance = x[:, None] - means
        return -np.einsum("nki,ij,nkj->nk", distance, inverse, distance).min(axis=1)

    def neighbours(logits: np.ndarray, x: np.ndarray) -> np.ndarray:
        return np.sort(x / np.linalg.norm(x, axis=1, keepdims=True) @ unit.T, axis=1)[:, -10]

    def clipped(logits: np.ndarray, x: np.ndarray) -> np.ndarray:
        clipped_x = torch.from_numpy(np.minimum(x, limit).astype(np.float32))
        return energies(as_task_dict(layer(clipped_x))[SINGLE_TASK].numpy())

    def log_softmax(logits: np.ndarray) -> np.ndarray:
        return logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)

    return {
        "max probability": lambda logits, x: log_softmax(logits / temperature).max(axis=1),
        "max logit": lambda logits, x: logits.max(axis=1),
        "uncentred energy": lambda logits, x: energies(logits) + logits.mean(axis=1),
        "energy": lambda logits, x: energies(logits),
        "clipped energy": clipped,
        "Mahalanobis": mahalanobis,
        "neighbours": neighbours,
    }


def measure_group(work: Path, group: str, epochs: int) -> dict[str, Any]:
    """The rejection of what one model does not know."""
    model = train(work, group, epochs)
    log_progress(f"measuring without {group}")
    names = list(model.class_names)
    sets = {name: work / name / "val" for name in ("calibration", "test")} | {"odd": work / "odd"}
    videos = {name: samples_in(folder, names) for name, folder in sets.items()}
    videos = {name: [s for s in samples if s.id != BACKGROUND] for name, samples in videos.items()}
    videos["calibration"] = [sample for sample in videos["calibration"] if sample.label is not None]
    videos["fit"] = samples_in(work / f"without_{group}" / "train", names)
    found = {name: outputs(model, samples) for name, samples in videos.items()}
    measured = calibrate(model, videos["calibration"], keep=KEEP).tasks[SINGLE_TASK]
    scores = make_scores(model, measured.calibration.temperature, (found["fit"][1], videos["fit"]))
    labels = np.array([-1 if sample.label is None else sample.label for sample in videos["test"]])
    known, right = labels >= 0, found["test"][0].argmax(axis=1) == labels
    kinds = np.array([sample.id for sample in videos["odd"]])
    calibrated_right = found["calibration"][0].argmax(axis=1) == [sample.label for sample in videos["calibration"]]
    rows = {}
    for name, score in scores.items():
        threshold = choose_threshold(score(*found["calibration"])[calibrated_right], KEEP)
        accepted = score(*found["test"]) >= threshold
        odd = score(*found["odd"]) >= threshold
        rows[name] = {
            "known_accepted": accepted[known].mean(),
            "right_accepted": accepted[known & right].mean(),
            "accepted_top1": right[known & accepted].mean(),
            "unknown_rejected": 1 - accepted[~known].mean(),
            "odd_rejected": {kind: 1 - odd[kinds == kind].mean() for kind in ODD},
        }
    logits, temperature = torch.from_numpy(found["test"][0][known]), measured.calibration.temperature
    targets = torch.from_numpy(labels[known])
    bins = {name: measure_reliability((logits / t).softmax(1), targets) for name, t in _temperatures(temperature)}
    _plot_reliability(bins, work / f"reliability_{group}.png")
    shares = {
        "known classes": energies(found["test"][0][known]),
        "held-out classes": energies(found["test"][0][~known]),
        "noise, flat and still pictures": energies(found["odd"][0]),
    }
    plot_rejection(shares, measured.calibration.energy_threshold, work / f"rejection_{group}.png")
    return {
        "held_out": HELD_OUT[group],
        "top1": right[known].mean(),
        "calibration": asdict(measured.calibration),
        "calibration_error": {name: x.calibration_error for name, x in bins.items()},
        "scores": rows,
    }


def _temperatures(temperature: float) -> list[tuple[str, float]]:
    return [("before", 1.0), ("after", temperature)]


def _plot_reliability(bins: dict[str, Any], path: Path) -> None:
    named = {f"{name}: calibration error {100 * x.calibration_error:.1f} %": asdict(x) for name, x in bins.items()}
    plot_reliability(named, path)


def measure_bundled(work: Path) -> dict[str, Any]:
    """The calibration error of the bundled model, on other videos than its temperature is from."""
    log_progress("measuring the bundled model")
    model = XViT.from_pretrained("motion")
    names = list(model.class_names)
    calibration, test = (samples_in(work / name / "val", names) for name in ("calibration", "test"))
    measured = calibrate(model, calibration, keep=KEEP).tasks[SINGLE_TASK].calibration
    logits, targets = torch.from_numpy(outputs(model, test)[0]), torch.tensor([sample.label for sample in test])
    bins = {n: measure_reliability((logits / t).softmax(1), targets) for n, t in _temperatures(measured.temperature)}
    _plot_reliability(bins, work / "reliability_bundled.png")
    odd = samples_in(work / "odd", names)
    found, kinds = outputs(model, odd)[0], np.array([sample.id for sample in odd])
    nothing = (found.argmax(axis=1) == names.index(BACKGROUND)) | (energies(found) < measured.energy_threshold)
    return {
        "top1": (logits.argmax(1) == targets).double().mean().item(),
        "videos": len(test),
        "accepted": (energies(logits.numpy()) >= measured.energy_threshold).mean(),
        "calibration": asdict(measured),
        "calibration_error": {name: x.calibration_error for name, x in bins.items()},
        "odd_background_or_rejected": {kind: nothing[kinds == kind].mean() for kind in ODD},
    }


@one_thread()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path, metavar="WORK_FOLDER")
    parser.add_argument("--epochs", type=int, default=20, help="of each training")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    write_data(args.work)
    result: dict[str, Any] = {"keep": KEEP, "epochs": args.epochs, "seeds": SEEDS, "versions": library_versions()}
    result["bundled"] = measure_bundled(args.work)
    result["groups"] = {}
    for group in HELD_OUT:
        result["groups"][group] = measure_group(args.work, group, args.epochs)
        write_json(args.work / "unknown.json", result)
    print_table(result)


def print_table(result: dict[str, Any]) -> None:
    """Print the rejection of held-out classes by each score, and of other videos by the energy."""
    groups = result["groups"]
    print(f"{'held-out classes rejected':28}" + "".join(f"{group:>12}" for group in [*groups, "mean"]))
    for name in next(iter(groups.values()))["scores"]:
        shares = [values["scores"][name]["unknown_rejected"] for values in groups.values()]
        print(f"{name:28}" + "".join(f"{100 * share:10.1f} %" for share in [*shares, float(np.mean(shares))]))
    for title, key in (("top-1 of known classes", "top1"), ("known accepted, energy", None)):
        values = [v[key] if key else v["scores"]["energy"]["known_accepted"] for v in groups.values()]
        print(f"{title:28}" + "".join(f"{100 * value:10.1f} %" for value in values))
    for name in ("before", "after"):
        errors = [values["calibration_error"][name] for values in groups.values()]
        print(f"{'calibration error ' + name:28}" + "".join(f"{100 * error:10.2f} %" for error in errors))
    for kind in ODD:
        shares = [values["scores"]["energy"]["odd_rejected"][kind] for values in groups.values()]
        print(f"{kind + ' rejected':28}" + "".join(f"{100 * share:10.1f} %" for share in shares))


if __name__ == "__main__":
    main()
