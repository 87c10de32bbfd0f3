"""The report of `xvit data check` as JSON and as an HTML page with plots and frames."""

import html
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.image import imsave
from PIL import Image

from xvit.config import SINGLE_TASK, DataConfig
from xvit.data.annotations import describe_left_out
from xvit.data.decode import VideoInfo, read_clip
from xvit.data.remote import local_video
from xvit.data.tools.check import CheckReport, Problem
from xvit.utils.errors import VideoError
from xvit.utils.text import name_some, printable
from xvit.utils.version import __version__
from xvit.visualize import plot_dataset

_MAX_STRIPS = 8  # videos with a problem whose frames are shown
_STRIP_FRAMES, _STRIP_HEIGHT = 8, 96  # height in pixels
_MAX_NAMED = 20  # classes or copies in a line
_MAX_ROWS = 500  # problems on the page; report.json has all of them


def summary(report: CheckReport) -> dict[str, Any]:
    """The report as plain values, for JSON."""
    return {
        "samples": report.num_samples,
        "usable": {split: len(samples) for split, samples in report.usable.by_name.items()},
        "files": len(report.files),
        "hours": round(sum(video.duration for video in report.videos) / 3600, 4),
        "num_problems": len(report.problems),
        "kinds": report.problem_counts,
        "problems": [{name: getattr(p, name) for name in ("id", "path", "kind", "reason")} for p in report.problems],
        "copies": [asdict(copy) for copy in report.copies],
        "left_out": report.usable.left_out,
        "unusual_frame_rates": [{"path": video.path, "fps": round(video.fps, 3)} for video in report.unusual_fps],
        "counts": report.class_counts(),
    }


def describe(report: CheckReport) -> dict[str, str | None]:
    """The numbers of the report by their names; None for those to be left out."""
    counts = report.class_counts()
    untrained = [
        name if task == SINGLE_TASK else f"{task} {name}"
        for task, parts in counts.items()
        for name, count in parts.get("train", {}).items()
        if not count
    ]
    unvalidated = [
        name if task == SINGLE_TASK else f"{task} {name}"
        for task, parts in counts.items()
        for name, count in parts.get("val", {}).items()
        if not count and parts.get("train", {}).get(name)
    ]
    hours = summary(report)["hours"]
    usable = f"{len(report.usable.train)} for training, {len(report.usable.val)} for validation"
    copies: dict[str, list[str]] = defaultdict(list)
    for copy in report.copies:
        copies[f"same contents in {copy.where}"].append(f"{copy.first} = {copy.second}")
    return {
        "samples": f"{report.num_samples} in {len(report.files)} files",
        "length": f"{hours:.2f} hours" if hours >= 1 else f"{60 * hours:.1f} minutes",
        "usable": usable + (f", {len(report.usable.test)} for the test" if report.usable.test else ""),
        "problems": ", ".join(f"{count} {kind}" for kind, count in report.problem_counts.items()) or "none",
        "classes without a usable training video": name_some(untrained, _MAX_NAMED) or None,
        "classes without a usable validation video": name_some(unvalidated, _MAX_NAMED) or None,
        **{name: name_some(pairs, _MAX_NAMED) for name, pairs in copies.items()},
        "left out": describe_left_out(report.usable.left_out) or None,
        "unusual frame rates": str(len(report.unusual_fps)) if report.unusual_fps else None,
    }


def write_page(report: CheckReport, config: DataConfig, folder: Path, *, full: bool, settings: dict[str, str]) -> None:
    """Draw the plots and write report.html.

    Args:
        report: the result of `check_dataset`.
        config: the settings of the data set.
        folder: where report.html and its folder pictures/ are written.
        full: whether all frames were decoded.
        settings: data settings that select the usable videos, from `write_usable_annotations`.
    """
    values = {
        "frames per second": [video.fps for video in report.videos],
        "seconds": [video.duration for video in report.videos],
        "shorter side, pixels": [float(min(video.width, video.height)) for video in report.videos],
    }
    charts = ""
    for task, parts in report.class_counts().items():
        name = "classes.png" if task == SINGLE_TASK else f"classes_{task}.png"
        title = f"usable samples per {'class' if task == SINGLE_TASK else task}"
        plot_dataset(parts, values, folder / "pictures" / name, title=title)
        charts += f'<img src="pictures/{name}" alt="samples per class">'
        values = {}  # the histograms are part of the first chart only
    (folder / "report.html").write_text(
        _TEMPLATE.format(
            name=_html(Path(config.root).resolve().name),
            version=__version__,
            method="all frames were decoded" if full else "packets were counted; first and last frames were decoded",
            facts="".join(_row((name, value)) for name, value in describe(report).items() if value is not None),
            charts=charts,
            strips=_strips(report, folder),
            problems=_problems(report.problems),
            unusual=_unusual(report.unusual_fps),
            settings=_settings(settings),
        ),
        encoding="utf-8",
    )


def _strips(report: CheckReport, folder: Path) -> str:
    html_parts: list[str] = []
    for problem in {problem.path: problem for problem in report.problems if problem.path}.values():
        strip = _strip(problem.path)
        if strip is None:
            continue
        name = f"pictures/problem_{len(html_parts)}.png"
        imsave(folder / name, strip)
        html_parts.append(f'<p>{_html(str(problem))}</p><img src="{name}" alt="readable frames">')
        if len(html_parts) == _MAX_STRIPS:
            break
    return "<h2>Frames of videos with problems</h2>" + "".join(html_parts) if html_parts else ""


def _strip(path: str) -> np.ndarray | None:
    """Frames of the video side by side, (H, W, 3) uint8; None if none can be read."""
    try:
        with local_video(path) as video:
            clip = read_clip(
                video.path,
                lambda info: np.unique(np.linspace(0, info.num_frames - 1, _STRIP_FRAMES).round().astype(int)),
                short_side=_STRIP_HEIGHT,
                strict=False,
            )
    except (VideoError, OSError):
        return None
    height, width = clip.frames.shape[1:3]
    strip_width = min(max(1, width * _STRIP_HEIGHT // height), 4 * _STRIP_HEIGHT)
    frames = [np.asarray(Image.fromarray(frame).resize((strip_width, _STRIP_HEIGHT))) for frame in clip.frames]
    gap = ((0, 0), (0, 2), (0, 0))
    return np.concatenate([np.pad(frame, gap, constant_values=255) for frame in frames], axis=1)  # (H, T W, 3)


def _problems(problems: list[Problem]) -> str:
    if not problems:
        return "<p>None.</p>"
    more = f"<p>... and {len(problems) - _MAX_ROWS} more in report.json.</p>" if len(problems) > _MAX_ROWS else ""
    rows = [(problem.path or problem.id, problem.kind, problem.reason) for problem in problems[:_MAX_ROWS]]
    return _table(("video", "problem", "reason"), rows) + more


def _unusual(videos: list[VideoInfo]) -> str:
    if not videos:
        return ""
    text = "Less than half or more than twice the usual one. These videos are usable."
    rows = [(video.path, f"{video.fps:.2f}") for video in videos[:_MAX_ROWS]]
    return f"<h2>Unusual frame rates</h2><p>{text}</p>" + _table(("video", "frames per second"), rows)


def _settings(settings: dict[str, str]) -> str:
    if not settings:
        return "<p>None.</p>"
    lines = "".join(f"  {_html(name)}: {_html(value)}\n" for name, value in settings.items())
    return f"<pre>data:\n{lines}</pre>"


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{name}</th>" for name in columns)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(map(_row, rows))}</tbody></table>"


def _row(cells: Sequence[str]) -> str:
    return f"<tr>{''.join(f'<td>{_html(cell)}</td>' for cell in cells)}</tr>"


def _html(text: str) -> str:
    """Text that may be foreign, for the page."""
    return html.escape(printable(text))


_TEMPLATE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>xvit data check: {name}</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; color: #1e293b; max-width: 68rem; margin: 2rem auto; padding: 0 1rem }}
h1, h2 {{ line-height: 1.2 }}
h2 {{ margin-top: 2.5rem }}
table {{ border-collapse: collapse }}
th, td {{ padding: .3rem 1.2rem .3rem 0; text-align: left; vertical-align: top; border-bottom: 1px solid #e2e8f0 }}
td {{ overflow-wrap: anywhere }}
td:nth-child(2) {{ white-space: nowrap }}
#facts td:nth-child(2) {{ white-space: normal }}
img {{ max-width: 100%; display: block; margin: .3rem 0 1rem }}
p + img {{ margin-top: -.6rem }}
pre {{ background: #f8fafc; padding: 1rem; overflow: auto; font-size: 13px }}
</style>
</head>
<body>
<h1>Data set {name}</h1>
<table id="facts"><tbody>{facts}</tbody></table>
{charts}
<h2>Problems</h2>
{problems}
{strips}
{unusual}
<h2>The usable videos</h2>
<p>This folder holds annotation files that list only these. To use them, change these settings in the recipe, with the
paths of the files:</p>
{settings}
<p><small>xvit {version}; {method}.</small></p>
</body>
</html>
"""
