"""Make the model that comes with xvit: train on generated videos, measure on others, write the checkpoint.

    python scripts/make_bundled_model.py WORK_FOLDER

replaces src/xvit/bundled/motion. A stopped run continues with the same command. The result is the same on machines with
the same versions of the libraries and the same processor.

The model is the one of recipes/motion-streaming.yaml with two thirds of its channels, so that it fits into 1 MB,
smaller patches, which show better what the model looks at (xvit explain), a mix ratio of a quarter, which learns sooner
(docs/results/ablation.md), and clips that span a whole video. Its weights are those of the last epoch, stored as
float16. The accuracy in its card is that of the stored weights on videos that no training and no choice has used.
"""

import sys
from dataclasses import replace
from pathlib import Path

from xvit.config import RunConfig, find_recipe, read_config
from xvit.data.annotations import Sample
from xvit.data.synthetic.dataset import write_motion_dataset
from xvit.evaluation import evaluate, wilson_interval
from xvit.inference.predictor import Predictor
from xvit.models.xvit import XViT
from xvit.training import Progress, fit
from xvit.utils.timing import one_thread

SEED, TEST_SEED = 1000, 1001  # of the videos; others than the defaults of `xvit data motion` and `xvit demo`
TARGET = Path(__file__).parents[1] / "src" / "xvit" / "bundled" / "motion"


def bundled_recipe(videos: Path) -> RunConfig:
    """The recipe of the model."""
    recipe = read_config(RunConfig, find_recipe("motion-streaming"))
    kwargs = recipe.model.backbone_kwargs | {"embed_dim": 64, "patch_size": 12}
    return replace(
        recipe,
        model=replace(recipe.model, backbone_kwargs=kwargs, mix_ratio=0.25),
        clip=replace(recipe.clip, stride=2),
        data=replace(recipe.data, root=str(videos)),
        train=replace(recipe.train, epochs=8),
    )


def print_validation(progress: Progress) -> None:
    """Print the result of a validation."""
    if progress.validation is not None:
        print(f"epoch {progress.epoch} of {progress.epochs}: {progress.validation}", flush=True)


@one_thread()
def main(work: Path) -> None:
    """Write the data, train, measure, and write the checkpoint."""
    train, test, run = work / "train", work / "test", work / "run"
    if not train.exists():
        write_motion_dataset(train, clips_per_class=480, seed=SEED, val_fraction=1 / 12, background=True)
    if not test.exists():
        write_motion_dataset(test, clips_per_class=100, seed=TEST_SEED, val_fraction=1.0, background=True)
    recipe = bundled_recipe(train)
    result = fit(recipe, run, resume=True, on_progress=print_validation)
    model = XViT.from_pretrained(result.last)
    provenance = dict(model.provenance)
    model.half().save_pretrained(TARGET)
    model = XViT.from_pretrained(TARGET)  # float32 again, with the rounded weights
    paths = sorted(test.rglob("*.mp4"))
    samples = [
        Sample(path=str(p), label=model.class_names.index(p.parent.name), id=f"{p.parent.name}/{p.name}") for p in paths
    ]
    accuracy = evaluate(Predictor(model), samples, eval_config=recipe.eval, num_workers=recipe.data.num_workers)
    low, high = wilson_interval(round(accuracy.top1 * len(samples)), len(samples))
    provenance |= {
        "source": "scripts/make_bundled_model.py",
        "data": {**provenance["data"], "name": "xvit data motion", "seed": SEED},
        "weights": "trained, stored as float16",
        "metrics": {
            "top1": accuracy.top1,
            "interval_95": f"{100 * low:.1f} to {100 * high:.1f} %",
            "videos": len(samples),
            "seed_of_videos": TEST_SEED,
        },
    }
    model.provenance = provenance
    model.half().save_pretrained(TARGET)
    print(f"top-1 {100 * accuracy.top1:.1f} % ({100 * low:.1f} to {100 * high:.1f} %) of {len(samples)} test videos")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
