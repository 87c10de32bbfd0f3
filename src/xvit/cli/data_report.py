"""The report of `xvit data check`: report.json, report.html with its pictures, annotations of the usable videos."""

import html
import os
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.image import imsave
from torchvision.transforms.v2 import functional as F

from xvit.config import SINGLE_TASK, DataConfig
from xvit.data.decode import read_clip
from xvit.data.tools.check import MISSING, FileReport, Problem, Report
from xvit.utils.errors import VideoError
from xvit.utils.version import __version__
from xvit.visualize.plots import plot_data

_STRIPS = 8  # problem videos that are shown
_FRAMES, _HEIGHT = 8, 96  # frames of a strip, and its height in pixels
_LISTED = 500  # problems on the page; report.json has all


def summary(report: Report) -> dict[str, Any]:
    """A report as plain values for JSON."""
    readable = [file for file in report.files if file.frames]
    return {
        "samples": report.samples,
        "usable": {"train": len(report.data.train), "val": len(report.data.val)},
        "files": len(report.files),
        "hours": round(sum(file.seconds for file in readable) / 3600, 4),
        "bad": len(report.problems),
        "kinds": report.kinds,
        "problems": [
            {"id": problem.id, "path": problem.path, "kind": problem.kind, "reason": problem.reason}
            for problem in report.problems
        ],
        "odd_frame_rates": [{"path": file.path, "fps": round(file.fps, 3)} for file in report.odd],
        "counts": {"label" if task == SINGLE_TASK else task: parts for task, parts in report.counts().items()},
    }


def write_page(report: Report, config: DataConfig, folder: Path, *, full: bool, settings: dict[str, str]) -> None:
    """Draw the pictures and write report.html.

    Args:
        report: what was found.
        config: of the data set.
        folder: where to.
        full: all frames were decoded.
        settings: data settings that read the usable videos, as `write_clean` gives them.
    """
    readable = [file for file in report.files if file.frames]
    values = {
        "frames a second": [file.fps for file in readable],
        "seconds": [file.seconds for file in readable],
        "pixels, shorter side": [float(min(file.width, file.height)) for file in readable],
    }
    charts = []
    for task, parts in report.counts().items():
        name = "classes.png" if task == SINGLE_TASK else f"classes_{task}.png"
        plot_data(parts, values, folder / "pictures" / name, title=f"usable samples a {task or 'class'}")
        charts.append(name)
        values = {}  # beside the first chart only
    (folder / "report.html").write_text(
        _TEMPLATE.format(
            name=_text(Path(config.root).resolve().name),
            version=__version__,
            how="all frames were decoded" if full else "packets were counted, first and last frames decoded",
            facts=_facts(report, readable),
            charts="".join(f'<img src="pictures/{name}" alt="bars and histograms">' for name in charts),
            strips=_strips(report, folder),
            problems=_problems(report.problems),
            odd=_odd(report.odd),
            again=_again(settings),
        ),
        encoding="utf-8",
        errors="replace",
    )


def _facts(report: Report, readable: list[FileReport]) -> str:
    hours = sum(file.seconds for file in readable) / 3600
    empty = [
        f"{name}" if task == SINGLE_TASK else f"{task} {name}"
        for task, parts in report.counts().items()
        for name in parts.get("train", {})
        if not parts["train"][name]
    ]
    rows = {
        "samples": f"{report.samples} in {len(report.files)} files"
        + f", and {report.kinds.get(MISSING, 0)} videos missing" * (MISSING in report.kinds),
        "length": f"{hours:.2f} hours" if hours >= 1 else f"{60 * hours:.1f} minutes",
        "usable": f"{len(report.data.train)} to train on, {len(report.data.val)} to validate on",
        "with a problem": ", ".join(f"{number} {kind}" for kind, number in report.kinds.items()) or "none",
    }
    if empty:
        rows["classes without a usable training video"] = ", ".join(empty[:20]) + ", ..." * (len(empty) > 20)
    return "".join(f"<tr><td>{name}</td><td>{_text(value)}</td></tr>" for name, value in rows.items())


def _strips(report: Report, folder: Path) -> str:
    shown: list[str] = []
    for problem in {problem.path: problem for problem in report.problems if problem.path}.values():
        strip = _strip(problem.path)
        if strip is None:
            continue
        name = f"pictures/problem_{len(shown)}.png"
        imsave(folder / name, strip)
        shown.append(f'<p>{_text(problem)}</p><img src="{name}" alt="frames that could be read">')
        if len(shown) == _STRIPS:
            break
    return "<h2>What can be seen of some of them</h2>" + "".join(shown) if shown else ""


def _strip(path: str) -> np.ndarray | None:
    """Frames along the video side by side, (H, W, 3) uint8; None for one that gives none."""
    try:
        clip = read_clip(
            path,
            lambda info: np.unique(np.linspace(0, info.num_frames - 1, _FRAMES).round().astype(int)),
            short_side=_HEIGHT,
            strict=False,
        )
    except (VideoError, OSError):
        return None
    height, width = clip.frames.shape[2:]
    frames = F.resize(clip.frames, [_HEIGHT, min(max(1, width * _HEIGHT // height), 4 * _HEIGHT)], antialias=True)
    frames = F.pad(frames, [0, 0, 2, 0], fill=255).permute(0, 2, 3, 1)  # (T, 3, H, W) -> (T, H, W, 3)
    return np.concatenate(list(frames.numpy()), axis=1)  # (H, T W, 3)


def _problems(problems: list[Problem]) -> str:
    if not problems:
        return "<p>Nothing is wrong.</p>"
    more = f"<p>... and {len(problems) - _LISTED} more in report.json.</p>" if len(problems) > _LISTED else ""
    rows = "".join(
        f"<tr><td>{_text(p.path or p.id)}</td><td>{p.kind}</td><td>{_text(p.reason)}</td></tr>"
        for p in problems[:_LISTED]
    )
    return f"<table><thead><tr><th>video</th><th>is</th><th>why</th></tr></thead><tbody>{rows}</tbody></table>{more}"


def _odd(files: list[FileReport]) -> str:
    if not files:
        return ""
    rows = "".join(f"<tr><td>{_text(file.path)}</td><td>{file.fps:.2f}</td></tr>" for file in files[:_LISTED])
    return (
        "<h2>Odd frame rates</h2><p>Under half or over twice the usual one. They are used all the same.</p>"
        f"<table><thead><tr><th>video</th><th>frames a second</th></tr></thead><tbody>{rows}</tbody></table>"
    )


def _again(settings: dict[str, str]) -> str:
    if not settings:
        return "<p>There are none.</p>"
    lines = "".join(f"  {name}: {value}\n" for name, value in settings.items())
    return f"<pre>data:\n{_text(lines)}</pre>"


def _text(value: object) -> str:
    return html.escape(os.fspath(value) if isinstance(value, Path) else str(value))


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
<h1>The videos of {name}</h1>
<table id="facts"><tbody>{facts}</tbody></table>
{charts}
<h2>Problems</h2>
{problems}
{strips}
{odd}
<h2>The usable videos</h2>
<p>Annotations of them lie beside this page. In a recipe, with the other data settings as they were and the paths of
these files:</p>
{again}
<p><small>xvit {version}; {how}.</small></p>
</body>
</html>
"""
