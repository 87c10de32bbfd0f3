"""The report of `xvit finetune`: report.md and its pictures, with relative links only."""

import math
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from xvit.checkpoint import read_metadata
from xvit.config import SINGLE_TASK, ClipSpec
from xvit.data.annotations import Sample
from xvit.data.dataset import VideoDataset
from xvit.evaluation import Evaluation
from xvit.experiments.common import markdown_table
from xvit.models.streaming import check_streamable
from xvit.training import CrossValidation
from xvit.utils.errors import XViTError
from xvit.utils.files import atomic_write_text
from xvit.utils.text import printable
from xvit.utils.version import __version__
from xvit.visualize import FilmstripRow, plot_confusion_matrix, plot_filmstrip

REPORT = "report.md"
COLUMNS = ("way", "top-1", "95 % interval", "worse than the best by", "time")
_DOUBTFUL = 8  # videos that are shown
_PLAIN = {
    "head": "temporal head and classifier",
    "lora": "low-rank updates of the attention too",
    "full": "all weights",
}


def write_report(output: Path, result: dict[str, Any], validation: CrossValidation) -> None:
    """Draw the pictures and write report.md.

    Args:
        output: the folder.
        result: what `finetune` returns.
        validation: of the chosen way.
    """
    assert isinstance(validation.result, Evaluation)
    pictures = output / "pictures"
    pictures.mkdir(exist_ok=True)
    task = validation.result.tasks[SINGLE_TASK]
    title = f"{result['chosen']}: top-1 {100 * validation.result.top1:.1f} %"
    plot_confusion_matrix(task.confusion, task.class_names, pictures / "confusion.png", title=title)
    doubtful = doubtful_videos(validation)
    clip_spec = read_metadata(Path(result["model"])).clip_spec
    _draw(doubtful, clip_spec, pictures / "doubtful.png")
    atomic_write_text(output / REPORT, "\n".join(_lines(output, result, validation, doubtful)) + "\n")


def doubtful_videos(validation: CrossValidation) -> list[dict[str, Any]]:
    """The videos whose own class got the lowest scores, lowest first: mistakes of the model, or wrong labels."""
    assert isinstance(validation.result, Evaluation)
    scored, rows = validation.scored, []
    for sample, row, scores in zip(
        scored.samples, validation.result.samples, scored.scores[SINGLE_TASK].tolist(), strict=True
    ):
        assert isinstance(sample.label, int)
        names = {"ground_truth": row.ground_truth, "prediction": row.prediction, "score": row.score}
        rows.append({"id": sample.id, "path": sample.path, **names, "own_score": scores[sample.label]})
    return sorted(rows, key=lambda row: row["own_score"])[:_DOUBTFUL]


def way_rows(result: dict[str, Any]) -> list[tuple[str, ...]]:
    """The rows of the comparison as text, one cell for each of `COLUMNS`; the chosen way is marked."""
    rows: list[tuple[str, ...]] = []
    for way, values in result["ways"].items():
        low, high = values["top1_interval"]
        worse = f"{100 * values['difference']:.1f} points ({100 * values['low']:.1f} to {100 * values['high']:.1f})"
        is_best = values["difference"] == 0
        mark = " (chosen)" if way == result["chosen"] else ""
        cells = (f"{100 * values['top1']:.1f} %", f"{100 * low:.1f} to {100 * high:.1f} %")
        rows.append((f"{way}{mark}", *cells, "" if is_best else worse, f"{values['seconds']:.0f} s"))
    for way, seconds in result["not_tried"].items():
        rows.append((way, "not compared", "", "", f"about {math.ceil(seconds / 60)} minutes"))
    return rows


def next_commands(result: dict[str, Any]) -> list[str]:
    """What to do with the model: commands for a shell."""
    model = shlex.quote(result["model"])
    try:
        check_streamable(read_metadata(Path(result["model"])).model)
        long_videos = f"xvit stream 0 --checkpoint {model}"
    except XViTError:
        long_videos = f"xvit timeline LONG_VIDEO --checkpoint {model} --output timeline"
    return [
        f"xvit predict NEW_VIDEOS --checkpoint {model}",
        long_videos,
        f"xvit export {model} --output exported --videos NEW_VIDEOS",
    ]


def summary_line(result: dict[str, Any]) -> str:
    """The accuracy of the chosen way in one sentence."""
    values = result["ways"][result["chosen"]]
    low, high = values["top1_interval"]
    return (
        f"Top-1 {100 * values['top1']:.1f} % (95 % interval {100 * low:.1f} to {100 * high:.1f} %) of "
        f"{values['videos']} videos, each predicted by a model that was not trained on it."
    )


def _lines(
    output: Path, result: dict[str, Any], validation: CrossValidation, doubtful: Sequence[dict[str, Any]]
) -> Iterator[str]:
    yield from ("# Fine-tuned model", "", summary_line(result), "")
    folds = len(validation.folds)
    yield (
        f"The videos were divided into {folds} parts. For each part a model was trained on the others. The model in "
        f"`{Path(result['model']).relative_to(output)}` was trained in the same way on all {result['videos']} videos: "
        "it tends to be a little better."
    )
    yield ""
    yield (
        "Clips that were cut out of one recording may be in different parts. If there are such clips, fewer of those "
        "of new recordings will be right: keep some recordings for a test."
    )
    yield from ("", "| class | videos |", "|---|---|")
    yield from (f"| {printable(name)} | {count} |" for name, count in result["classes"].items())
    if result["left_out"]:
        yield from ("", "Left out:", "", *(f"- {printable(reason)}" for reason in result["left_out"]))
    yield from ("", "## What was trained", "")
    yield from markdown_table(COLUMNS, way_rows(result))
    yield ""
    yield "; ".join(f"{way}: {text}" for way, text in _PLAIN.items()) + "."
    yield (
        "Chosen is the first of them that is not clearly worse than the most accurate one: the 95 % interval of their "
        "difference on the same videos includes 0."
    )
    yield from ("", "## What its scores are worth", "", *_calibration_lines(result))
    yield from ("", "## Which classes are confused", "", "![confusion matrix](pictures/confusion.png)", "")
    yield from ("## Doubtful videos", "", "Those whose own class got the lowest scores: mistakes, or wrong labels.", "")
    rows = [
        (
            row["id"],
            row["ground_truth"],
            f"{100 * row['own_score']:.0f} %",
            f"{row['prediction']} {100 * row['score']:.0f} %",
        )
        for row in doubtful
    ]
    yield from markdown_table(
        ("video", "class", "its score", "prediction"), [tuple(map(printable, row)) for row in rows]
    )
    yield from ("", "![frames of these videos](pictures/doubtful.png)", "", "## Next", "", "```sh")
    yield from next_commands(result)
    yield from ("```", "", f"xvit {__version__}")


def calibration_line(result: dict[str, Any]) -> str:
    """What the calibration changes, in one sentence."""
    if result["calibration"] is None:
        return "Not calibrated: too few videos are classified correctly (see xvit calibrate)."
    rejected = 100 * (1 - result["calibration"]["coverage"])
    return f'Calibrated by the same predictions: {rejected:.0f} % of these videos are "none of these".'


def _calibration_lines(result: dict[str, Any]) -> Iterator[str]:
    yield calibration_line(result)
    if (calibration := result["calibration"]) is None:
        return
    before, after = (100 * calibration[name] for name in ("calibration_error_before", "calibration_error"))
    yield (
        f"Scores are divided by a temperature of {calibration['temperature']:.2f}: they then differ from the share of "
        f"right predictions by {after:.1f} % (before: {before:.1f} %). A video whose energy is below "
        f'{calibration["energy_threshold"]:.2f} is "none of these"; of the others '
        f"{100 * calibration['precision']:.1f} % are right."
    )


def _draw(rows: Sequence[dict[str, Any]], clip_spec: ClipSpec, path: Path) -> None:
    samples = [Sample(path=row["path"], label=None, id=row["id"]) for row in rows]
    dataset = VideoDataset(samples=samples, clip_spec=clip_spec)
    strips = []
    for index, row in enumerate(rows):
        pixels = dataset[index].pixels  # (1, T, C, S, S); None if it became unreadable meanwhile
        if pixels is not None:
            frames = pixels[0].permute(0, 2, 3, 1).numpy()
            strips.append(FilmstripRow(frames, row["ground_truth"], row["prediction"], row["score"]))
    if strips:
        plot_filmstrip(strips, path)
