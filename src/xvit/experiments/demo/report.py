"""The demo's report: plots and one HTML page in the output directory, with relative links only."""

import html
import json
import shlex
from pathlib import Path
from typing import Any

import yaml

from xvit.checkpoint.format import read_metadata
from xvit.config import ClipSpec
from xvit.data.annotations import Sample
from xvit.data.dataset import VideoDataset
from xvit.data.synthetic.motion import CLASSES
from xvit.training.rows import METRICS
from xvit.utils.version import __version__
from xvit.visualize import FilmstripRow, plot_confusion_matrix, plot_filmstrip, plot_per_class, plot_training_curves

ORDER_BLIND_BOUND = 0.5  # a class and its time-reversed twin contain the same frames
_BOUND = ("upper bound for an order-blind model", ORDER_BLIND_BOUND)
_STRIPS, _WRONG_STRIPS = 8, 3
FIRST_PICTURE = "pictures/first_predictions.png"  # in the output directory


def write_report(output: Path, summary: dict[str, Any]) -> None:
    """Draw the plots and write report.html.

    Args:
        output: the demo's output directory.
        summary: "first_predictions", "rows", "predictions", "settings" and "seconds", as collected by `run_demo`.
    """
    pictures = output / "pictures"
    rows = summary["rows"]
    curves = {row["model"]: read_jsonl(output / row["key"] / METRICS) for row in rows}
    plot_training_curves(curves, pictures / "curves.png", reference=_BOUND)
    accuracies = {row["model"]: {name: accuracy or 0.0 for name, accuracy in row["per_class"].items()} for row in rows}
    plot_per_class(accuracies, pictures / "per_class.png")
    for row in rows:
        path = pictures / f"confusion_{row['key']}.png"
        plot_confusion_matrix(row["confusion"], CLASSES, path, title=f"{row['model']}: top-1 {100 * row['top1']:.1f} %")
    clip_spec = read_metadata(output / "xvit" / "last").clip_spec
    draw_predictions(summary["predictions"], clip_spec, pictures / "predictions.png")
    (output / "report.html").write_text(_page(output, summary), encoding="utf-8")


def comparison_table(rows: list[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Column headings and rows of the comparison, for the page and the terminal."""
    columns = ["model", "top-1", "pair", "parameters", "MACs/clip", "time/clip", "training"]
    cells = [
        [
            row["model"],
            f"{100 * row['top1']:.1f} %",
            f"{100 * row['top1_of_pairs']:.1f} %",
            f"{row['parameters'] / 1e6:.3f}e6",
            f"{row['macs'] / 1e6:.1f}e6",
            f"{row['milliseconds']:.2f} ms",
            f"{row['training_seconds']:.0f} s",
        ]
        for row in rows
    ]
    return columns, cells


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSON Lines file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def draw_predictions(predictions: list[dict[str, Any]], clip_spec: ClipSpec, path: Path) -> None:
    """Draw correct predictions, one per pair of classes, then some wrong ones, with the frames that the model saw.

    Args:
        predictions: "path", "ground_truth", "prediction" and "score" of videos that can be read.
        clip_spec: of the model.
        path: the PNG file to write.
    """
    wrong = [item for item in predictions if item["prediction"] != item["ground_truth"]][:_WRONG_STRIPS]
    correct = {
        CLASSES.index(item["ground_truth"]) // 2: item
        for item in predictions
        if item["prediction"] == item["ground_truth"]
    }
    shown = [*list(correct.values())[: _STRIPS - len(wrong)], *wrong]
    samples = [Sample(path=item["path"], label=None, id=item["path"]) for item in shown]
    dataset = VideoDataset(samples=samples, clip_spec=clip_spec)
    strips = []
    for index, item in enumerate(shown):
        pixels = dataset[index].pixels  # (V, T, C, S, S) with a single view
        assert pixels is not None, "the prediction has read this file"
        frames = pixels[0].permute(0, 2, 3, 1).numpy()  # (T, C, S, S) -> (T, S, S, C)
        strips.append(FilmstripRow(frames, item["ground_truth"], item["prediction"], item["score"]))
    plot_filmstrip(strips, path)


def next_commands(output: str | Path) -> list[str]:
    """What to try after the demo: commands for a shell."""
    output = shlex.quote(str(output))
    return [
        f"xvit predict {output}/videos/val/moving_left --checkpoint {output}/xvit/best",
        f"xvit eval --checkpoint motion --data.root {output}/videos",
        "xvit train --config finetune --data.root YOUR_VIDEOS --output run",
    ]


def _page(output: Path, summary: dict[str, Any]) -> str:
    rows = {row["key"]: row for row in summary["rows"]}
    columns, cells = comparison_table(summary["rows"])
    xvit, spatial, settings = rows["xvit"], rows["spatial"], summary["settings"]
    first = summary["first_predictions"]
    return _TEMPLATE.format(
        version=__version__,
        videos=xvit["videos"],
        classes=len(CLASSES),
        xvit=f"{100 * xvit['top1']:.1f}",
        spatial=f"{100 * spatial['top1']:.1f}",
        spatial_reversed=f"{100 * (spatial['top1_of_pairs'] - spatial['top1']):.1f}",
        spatial_other=f"{100 * (1 - spatial['top1_of_pairs']):.1f}",
        first_correct=sum(item["prediction"] == item["ground_truth"] for item in first),
        first_total=len(first),
        first_picture=FIRST_PICTURE,
        commands=html.escape("\n".join(next_commands(output))),
        macs=f"{spatial['macs'] / xvit['macs']:.3f}",
        columns="".join(f"<th>{column}</th>" for column in columns),
        body="".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in cells),
        confusions="".join(f'<img src="pictures/confusion_{key}.png" alt="confusion matrix">' for key in rows),
        stages="".join(f"<tr><td>{name}</td><td>{s:.1f} s</td></tr>" for name, s in summary["seconds"].items()),
        total=f"{sum(summary['seconds'].values()):.0f}",
        clips=settings["clips_per_class"],
        seed=settings["seed"],
        recipe=html.escape(yaml.safe_dump(settings["recipe"], sort_keys=False)),
    )


_TEMPLATE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>xvit: two models on moving shapes</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; color: #1e293b; max-width: 64rem; margin: 2rem auto; padding: 0 1rem }}
h1, h2 {{ line-height: 1.2 }}
h2 {{ margin-top: 2.5rem }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums }}
th, td {{ padding: .35rem .9rem .35rem 0; text-align: right; border-bottom: 1px solid #e2e8f0 }}
th:first-child, td:first-child {{ text-align: left }}
tbody tr:first-child {{ font-weight: 600 }}
img {{ max-width: 100%; display: block; margin: 1rem 0 }}
pre {{ background: #f8fafc; padding: 1rem; overflow: auto; font-size: 13px }}
</style>
</head>
<body>
<h1>Two models on moving shapes</h1>
<p>The data set has {classes} classes of motion. Each class has a time-reversed twin whose videos contain the same
frames in the opposite order. A model that ignores the order of the frames can at best identify the pair, so its top-1
accuracy is at most 50 %. Two models were trained with the same recipe on the same videos and tested on {videos}
held-out videos:</p>
<table><thead><tr>{columns}</tr></thead><tbody>{body}</tbody></table>
<p>XViT classifies {xvit} % of the videos correctly. The same model without mixing reaches {spatial} % with {macs} times
the multiply-adds (MACs): each frame attends only to itself before temporal attention combines the frames. In
{spatial_reversed} % of the videos it predicts the time-reversed twin, and in {spatial_other} % a class of another
pair.</p>
<p><small>Top-1 is measured with the weights of the last epoch. <em>Pair</em> also counts a prediction of the
time-reversed twin as correct. Time is the median for one clip at a time on one core, with the models taking
turns.</small></p>

<h2>First predictions</h2>
<p>Before the training, the model that comes with xvit (<code>--checkpoint motion</code>) classified {first_correct} of
{first_total} held-out videos correctly, one of each class. Some of them:</p>
<img src="{first_picture}" alt="video frames with predictions of the bundled model">

<h2>Predictions of the trained model</h2>
<p>XViT's predictions for held-out files: one correct prediction for each of several pairs of classes, then up to three
wrong ones. Green is correct, red is wrong.</p>
<img src="pictures/predictions.png" alt="video frames with predictions">

<h2>Training</h2>
<img src="pictures/curves.png" alt="accuracy and loss by epoch">

<h2>Accuracy by class</h2>
<img src="pictures/per_class.png" alt="accuracy by class and model">

<h2>Confusion matrices</h2>
<p>Twins are adjacent. A 2 × 2 block on the diagonal is a pair whose order the model does not recognise.</p>
{confusions}

<h2>Next</h2>
<p>Classify videos with the model trained here, measure the one that comes with xvit, or train on your own videos, in
<code>YOUR_VIDEOS/train/&lt;class&gt;/</code> and <code>YOUR_VIDEOS/val/&lt;class&gt;/</code>:</p>
<pre>{commands}</pre>

<h2>Settings and duration</h2>
<p>xvit {version}, {clips} videos per class (a fifth of them held out), seed {seed}. All stages took {total} s:</p>
<table>{stages}</table>
<pre>{recipe}</pre>
</body>
</html>
"""
