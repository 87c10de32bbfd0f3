"""The demonstration's report: pictures and one HTML page in the output folder, all links relative."""

import html
import json
from pathlib import Path
from typing import Any

import yaml

from xvit.checkpoint.format import read_metadata
from xvit.data.annotations.samples import Sample
from xvit.data.dataset import VideoDataset
from xvit.data.synthetic.motion import CLASSES
from xvit.utils.version import __version__
from xvit.visualize.plots import Strip, filmstrip, plot_confusion, plot_curves, plot_per_class

ORDER_BLIND_BOUND = 0.5  # a class and its time-reversed twin hold the same frames
_STRIPS = 8
_BOUND = ("order-blind bound, by construction", ORDER_BLIND_BOUND)


def write_report(output: Path, summary: dict[str, Any]) -> None:
    """Draw the pictures and write report.html.

    Args:
        output: the demonstration's folder.
        summary: "rows", "predictions", "settings" and "seconds", as `run_demo` collects them.
    """
    pictures = output / "pictures"
    rows = summary["rows"]
    curves = {row["model"]: _read_rows(output / row["key"] / "metrics.jsonl") for row in rows}
    plot_curves(curves, pictures / "curves.png", bound=_BOUND)
    accuracies = {row["model"]: {n: a or 0.0 for n, a in row["per_class"].items()} for row in rows}
    plot_per_class(accuracies, pictures / "per_class.png")
    for row in rows:
        path = pictures / f"confusion_{row['key']}.png"
        plot_confusion(row["confusion"], CLASSES, path, title=f"{row['model']}: top-1 {100 * row['top1']:.1f} %")
    filmstrip(_strips(output, summary["predictions"]), pictures / "predictions.png")
    (output / "report.html").write_text(_page(summary), encoding="utf-8")


def table_of(rows: list[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Heads and cells of the comparison, for the page and for the terminal."""
    heads = ["model", "top-1", "pair right", "parameters", "MACs a clip", "time a clip", "training"]
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
    return heads, cells


def _read_rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _strips(output: Path, predictions: list[dict[str, Any]]) -> list[Strip]:
    """The wrong ones (they are few), then right ones of different pairs, with the frames that the model saw."""
    wrong = [said for said in predictions if said["prediction"] != said["truth"]][:3]
    right = [said for said in predictions if said["prediction"] == said["truth"]]
    pair_of = {name: number // 2 for number, name in enumerate(CLASSES)}
    one_a_pair = list({pair_of[said["truth"]]: said for said in right}.values())
    chosen = [*one_a_pair[: _STRIPS - len(wrong)], *wrong]
    samples = [Sample(path=said["path"], label=None, id=said["path"]) for said in chosen]
    dataset = VideoDataset(samples=samples, spec=read_metadata(output / "xvit" / "last").clip_spec)
    strips = []
    for index, said in enumerate(chosen):
        pixels = dataset[index].pixels  # (V, T, C, S, S), one view
        assert pixels is not None, "the file was read a moment ago"
        frames = pixels[0].permute(0, 2, 3, 1).numpy()  # (T, C, S, S) -> (T, S, S, C)
        strips.append(Strip(frames, said["truth"], said["prediction"], said["score"]))
    return strips


def _page(summary: dict[str, Any]) -> str:
    rows = {row["key"]: row for row in summary["rows"]}
    heads, cells = table_of(summary["rows"])
    body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in line) + "</tr>" for line in cells)
    xvit, spatial, blind = rows["xvit"], rows["spatial"], rows["order_blind"]
    stages = "".join(f"<tr><td>{name}</td><td>{s:.1f} s</td></tr>" for name, s in summary["seconds"].items())
    settings = summary["settings"]
    return _TEMPLATE.format(
        version=__version__,
        videos=xvit["videos"],
        classes=len(CLASSES),
        xvit=f"{100 * xvit['top1']:.1f}",
        spatial=f"{100 * spatial['top1']:.1f}",
        blind=f"{100 * blind['top1']:.1f}",
        blind_pairs=f"{100 * blind['top1_of_pairs']:.1f}",
        macs=f"{spatial['macs'] / xvit['macs']:.3f}",
        heads="".join(f"<th>{head}</th>" for head in heads),
        body=body,
        confusions="".join(f'<img src="pictures/confusion_{key}.png" alt="confusion matrix">' for key in rows),
        stages=stages,
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
<title>xvit: three models on moving shapes</title>
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
<h1>Three models on moving shapes</h1>
<p>Each of the {classes} classes is what happens over time, and each has a time-reversed twin whose videos hold the same
frames in the opposite order. A model that is blind to the order of the frames can at best name the pair: 50 %, by
construction. Three models were trained by one recipe, on the same videos, and tested on {videos} others:</p>
<table><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table>
<p>XViT names {xvit} % rightly. The same model without mixing, each frame attending to itself alone before temporal
attention joins them, {spatial} % at {macs} times the multiply-adds (MACs). With a mean in place of temporal attention
nothing knows the order: {blind} %, while the pair is right for {blind_pairs} %.</p>
<p><small>Top-1 is that of the weights after the last epoch. <em>Pair right</em> counts a class taken for its
time-reversed twin as right. Time is the median for one clip at a time on one core, the models taking turns.</small></p>

<h2>Predictions</h2>
<p>What XViT says of held-out files: the first right one of some pairs of classes, then up to three that it got wrong.
Green is right, red is wrong.</p>
<img src="pictures/predictions.png" alt="frames of videos with predictions">

<h2>Training</h2>
<img src="pictures/curves.png" alt="accuracy and loss over the epochs">

<h2>Accuracy of each class</h2>
<img src="pictures/per_class.png" alt="accuracy of each class and model">

<h2>What is taken for what</h2>
<p>Twins stand side by side. A square of two by two along the diagonal is a pair whose order is not seen.</p>
{confusions}

<h2>How it was made</h2>
<p>xvit {version}, {clips} videos a class of which a fifth is held out, seed {seed}; {total} s in all:</p>
<table>{stages}</table>
<pre>{recipe}</pre>
</body>
</html>
"""
