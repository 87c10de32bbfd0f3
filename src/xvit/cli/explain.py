"""xvit explain VIDEO --checkpoint DIR [--class CLASS] [--against CLASS] [--method METHOD] [--output DIR]

Show which frames, and which patches of them, decided. The relevance of a patch is what its content adds to
the logit of a class, compared with the same clip held still at one of its frames: so all patches together
add up to what motion contributes. Orange patches speak for the class, blue ones against it.
The sum is checked, and its error printed; beyond 1 %, the relevance is not to be trusted.

methods
  integrated   integrated gradients: adds up (default); takes seconds, and minutes for a ViT-S without a GPU
  quick        one backward pass: usually does not add up
  occlusion    replaces the patches one by one by those of the clip held still: needs no gradients, slow

Writes to the output folder, if given: explanation.png (frames, relevance and a bar per frame),
explanation.gif and explanation.mp4 (animated), explanation.json (all numbers).

examples:
  xvit explain clip.mp4 --checkpoint run/best --output why
  xvit explain clip.mp4 --checkpoint motion --class moving_left --against moving_right
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse import Namespace
from rich.text import Text

from xvit.cli import terminal
from xvit.cli.parsing import TRAINED_MODEL, CommandParser, select
from xvit.data.shards import check_video_exists
from xvit.utils.checkpoint_path import check_model
from xvit.utils.errors import check_choice
from xvit.utils.files import atomic_directory, check_new_directory

if TYPE_CHECKING:
    from xvit.inference.explain import Explanation

_BAR_WIDTH = 30  # characters of the longest bar


def add_options(parser: CommandParser) -> None:
    parser.add("video VIDEO", str, "a video file, or a folder of frames", check=check_video_exists)
    parser.add("--checkpoint DIR", str, TRAINED_MODEL, required=True, check=check_model)
    parser.add("--class CLASS", str | None, "the class to explain; the best one if unset")
    parser.add("--against CLASS", str | None, "explain the lead of the class over this one")
    parser.add("--task TASK", str | None, "of a model with several tasks; the first one if unset")
    parser.add("--method METHOD", str, "integrated, quick or occlusion", default="integrated")
    parser.add("--fps F", float | None, "frames per second of a folder of frames; 30 if unset", low=0.001)
    parser.add("--output DIR", str | None, "folder to create", check=check_new_directory)
    parser.add_device()


def run(args: Namespace) -> int:
    """Explain the decision for one video."""
    from xvit.inference.explain import METHODS, explain_video
    from xvit.inference.predictor import Predictor

    check_choice("--method", args.method, METHODS)
    predictor = Predictor(args.checkpoint, device=args.device)
    with terminal.progress_bar("explaining", quiet=args.json) as update:
        explanation = explain_video(
            predictor,
            args.video,
            target=args["class"],
            **select(args, "against", "task", "method", "fps"),
            on_progress=update,
        )
    if args.output is not None:
        _write(explanation, Path(args.output))
    texts = [_describe(explanation), _bars(explanation)]
    if explanation.warning:
        texts.append(Text(f"warning: {explanation.warning}", style="yellow"))
    if args.output is not None:
        texts.append(Text(f"written to {args.output}: explanation.png, .gif, .mp4, .json"))
    return terminal.finish(args, explanation.to_dict(), *texts)


def _name(explanation: "Explanation") -> str:
    name = explanation.target if explanation.against is None else f"{explanation.target} against {explanation.against}"
    return f"{explanation.task}: {name}" if explanation.task else name


def _sum(explanation: "Explanation") -> str:
    """What the relevance adds up to, in one line."""
    logit, still, error = explanation.logit, explanation.logit_still, explanation.completeness_error
    text = f"logit {logit:.2f}, with the clip held still {still:.2f}: motion adds {logit - still:+.2f}. "
    if error is None:
        return f"{text}By occlusion, the patches need not add up to it"
    total = explanation.frame_relevance.sum()
    return f"{text}The patches add up to {total:+.2f} (error {100 * error:.2g} %)"


def _describe(explanation: "Explanation") -> Text:
    return Text(f"{explanation.path}: {_name(explanation)}\n{_sum(explanation)}")


def _bars(explanation: "Explanation") -> Text:
    """The relevance of each frame as a bar: for the class to the right of a line, against it to the left."""
    from xvit.inference.explain import LEAST_RELEVANCE

    values = explanation.frame_relevance
    unit = max(abs(values).max(), LEAST_RELEVANCE) / _BAR_WIDTH
    lengths = [round(abs(value) / unit) for value in values]
    left = max((n for n, value in zip(lengths, values, strict=True) if value < 0), default=0)
    lines = []
    for time, value, length in zip(explanation.times, values, lengths, strict=True):
        line = Text(f"{time:8.2f} s {value:+8.3f}  ")
        if value < 0:
            line.append(" " * (left - length)).append("█" * length, style="blue").append("│")
        else:
            line.append(" " * left).append("│").append("█" * length, style="dark_orange")
        lines.append(line)
    return Text("\n").join(lines)


def _write(explanation: "Explanation", output: Path) -> None:
    from xvit.visualize.explanation import plot_explanation, write_explanation_video

    arrays = explanation.frames, explanation.relevance, explanation.times
    with atomic_directory(output) as directory:
        plot_explanation(
            *arrays,
            directory / "explanation.png",
            title=f"{_name(explanation)} ({Path(explanation.path).name})",
            notes=[_sum(explanation)],
            warning=explanation.warning,
        )
        for suffix in (".gif", ".mp4"):
            write_explanation_video(*arrays, directory / f"explanation{suffix}")
        text = json.dumps(explanation.to_dict(), indent=1) + "\n"
        (directory / "explanation.json").write_text(text, encoding="utf-8")
