"""Quality of explanations (xvit/experiments/explanations.py) of a model that was trained on the motion data set.

    xvit data motion --output videos --clips-per-class 340
    xvit train --config motion --data.root videos --output run --model.backbone_kwargs.patch_size 8
    python benchmarks/explanations.py --checkpoint run/best [--clips-per-class 10] [--output FOLDER] [--json]

Small patches make the measure meaningful: with large ones the moving object is in most of them. With --output, the
explanations of the first clip that the model gets right and of the first one that it gets wrong are drawn.
"""

import argparse
import json
import statistics
from dataclasses import asdict, fields
from pathlib import Path

import torch

from common import log_progress
from xvit import XViT
from xvit.data.transforms import as_tensor, eval_views, normalize
from xvit.experiments.common import markdown_table
from xvit.experiments.explanations import MaskedClip, Scores, draw_clips, measure, patch_mask
from xvit.inference.explain import explain_clip
from xvit.visualize.explanation import plot_explanation

COLUMNS = ("model", "explanation", "mass / share", "occlusion", "occlusion, signed", "deletion", "insertion")


def redraw_weights(model: XViT) -> XViT:
    """A model of the same settings with random weights."""
    torch.manual_seed(0)
    other = XViT(model.config)
    other.clip_spec, other.class_names = model.clip_spec, model.class_names
    return other.eval()


def mean(scores: list[Scores], name: str) -> float | None:
    """The mean of one measure over the clips for which it is defined."""
    values = [value for score in scores if (value := getattr(score, name)) is not None]
    return statistics.mean(values) if values else None


def draw(model: XViT, clips: list[MaskedClip], folder: Path) -> None:
    """Draw the explanation of the first clip with a right and of the first one with a wrong prediction."""
    folder.mkdir(parents=True, exist_ok=True)
    names = list(model.class_names)
    wanted = {True: "explanation-right.png", False: "explanation-mistake.png"}
    for clip in clips:
        views = eval_views(as_tensor(clip.frames), model.clip_spec)[0]
        pixel_values = normalize(views, model.clip_spec)[None]
        with torch.no_grad():
            best = names[int(model(pixel_values).argmax())]
        name = wanted.pop(best == clip.label, None)
        if name is None:
            continue
        against = None if best == clip.label else names.index(clip.label)
        result = explain_clip(model, pixel_values, target=names.index(best), against=against)
        title = best if against is None else f"{best} against {clip.label}, which is true"
        total = result["relevance"].sum()
        note = f"logit {result['logit']:.2f}, held still {result['logit_still']:.2f}, sum of relevance {total:.2f}"
        frames = views.permute(0, 2, 3, 1).numpy()
        plot_explanation(frames, result["relevance"], clip.times, folder / name, title=title, notes=[note])


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--clips-per-class", type=int, default=10)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    model = XViT.from_pretrained(args.checkpoint)
    clips = list(draw_clips(model, args.clips_per_class))
    models = {"trained": model, "random weights": redraw_weights(model)}
    results = measure(models, clips, on_progress=lambda done, total: log_progress(f"{done} of {total} clips"))
    grid = model.backbone.patch_embed.grid_size
    share = statistics.mean(float(patch_mask(clip.mask, grid).mean()) for clip in clips)
    if args.output is not None:
        draw(model, clips, args.output)
    names = [field.name for field in fields(Scores)]
    table = [
        [model_name, method, *("" if (value := mean(scores, name)) is None else f"{value:.2f}" for name in names)]
        for model_name, methods in results.items()
        for method, scores in methods.items()
    ]
    if args.json:
        values = {
            name: {key: [asdict(score) for score in scores] for key, scores in methods.items()}
            for name, methods in results.items()
        }
        print(json.dumps({"clips": len(clips), "share": share, "scores": values}))
        return
    print(f"{len(clips)} clips; the moving object is on {100 * share:.0f} % of the patches\n")
    print("\n".join(markdown_table(COLUMNS, table)))


if __name__ == "__main__":
    main()
