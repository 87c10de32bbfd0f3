"""xvit calibrate CHECKPOINT --data.root DIR [--split val|test] [--keep 0.95] [--unknown VIDEO_OR_FOLDER ...]
                      [--output DIR]

Teach a trained model how sure it is, and when to answer "none of these". Its own scores are often too high,
and a video of none of its classes still gets one of them. From labelled videos that it was not trained on,
this command measures two numbers for each task and stores them in config.json of CHECKPOINT:
  temperature        divides the logits, so that of the videos with a score of 80 %, 80 % are right
  energy threshold   a video with a lower energy, log(sum(exp(logits - mean))), shows none of the classes.
                     It is the highest one that accepts the share --keep of the correctly classified videos.
predict, stream, timeline, serve and exported models then obey them. The weights do not change, and the order
of the classes of a video stays the same. With --unknown, the result also says which share of those videos is
rejected, and the precision: the share of all accepted videos whose class is right. They do not change the
threshold: the next unknown videos will be others.
Use videos like those that the model will see. A training that starts from CHECKPOINT, or any other change of
its weights, needs a new calibration. To remove one, delete "calibration" in config.json.
Writes to the output folder, if given: calibration.json, reliability.png and rejection.png.

examples:
  xvit calibrate run/best --data.root videos
  xvit calibrate run/best --data.root videos --split test --keep 0.99
  xvit calibrate run/best --data.root videos --unknown other/ --output calibration
"""

from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse import Namespace
from rich.table import Table

from xvit.cli import terminal
from xvit.cli.parsing import CommandParser, parse_data_args, require
from xvit.cli.splits import add_split, read_split
from xvit.config import SINGLE_TASK
from xvit.data.shards import check_video_exists
from xvit.utils.checkpoint_path import HUB_PREFIX, bundled_models, check_checkpoint
from xvit.utils.errors import VideoError, XViTError
from xvit.utils.files import atomic_directory, check_new_directory, write_errors, write_json

if TYPE_CHECKING:
    from xvit.evaluation import CalibrationResult


def _check_own_checkpoint(source: str) -> None:
    """Raise `XViTError` unless there is a checkpoint at a path: others cannot be changed."""
    if source.startswith(HUB_PREFIX) or (source in bundled_models() and not Path(source).exists()):
        copy = f"xvit.XViT.from_pretrained({source!r}).save_pretrained('copy')"
        raise XViTError(f"{source}: expected a folder of yours, whose config.json can be changed; make a copy: {copy}")
    check_checkpoint(source)


def add_options(parser: CommandParser) -> None:
    parser.add("checkpoint CHECKPOINT", str, "folder of a trained model, to be calibrated", check=_check_own_checkpoint)
    text = "share of the correctly classified videos that the threshold accepts"
    parser.add("--keep SHARE", float, text, default=0.95, low=0.001, high=1)
    text = "videos of none of the classes, to measure how many are rejected: files, folders or lists"
    parser.add("--unknown VIDEO_OR_FOLDER", str, text, nargs="+", default=[], check=check_video_exists)
    parser.add("--output DIR", str | None, "folder for the result, to be created", check=check_new_directory)
    parser.add_device()
    add_split(parser)


parse = parse_data_args


def run(args: Namespace) -> int:
    """Calibrate the model and print what was measured."""
    from xvit.checkpoint.format import store_calibration
    from xvit.data.annotations import Sample, find_videos
    from xvit.data.seen import count_seen
    from xvit.evaluation import calibrate
    from xvit.evaluation.calibration import check_single_label
    from xvit.evaluation.metrics import check_labels
    from xvit.models.xvit import XViT
    from xvit.utils.devices import default_device

    output = check_new_directory(args.output) if args.output else None
    model = XViT.from_pretrained(args.checkpoint, device=args.device or default_device())
    check_single_label(model)
    require(any(model.config.tasks.values()), "CHECKPOINT", "a model with classes", "xvit calibrate")
    samples = read_split(args, model.class_names, multi_label=False, prog="xvit calibrate")
    check_labels(samples, model.class_names, multi_label=False)  # all have some
    paths = find_videos(args.unknown) if args.unknown else []
    with terminal.progress_bar("scoring", quiet=args.json) as update:
        result = calibrate(
            model,
            samples,
            unknown=[Sample(path=path, label=None, id=path) for path in paths],
            keep=args.keep,
            num_workers=args.data.num_workers,
            decode_timeout=args.data.decode_timeout,
            on_progress=update,
        )
    store_calibration(Path(args.checkpoint), result.calibration)
    seen = count_seen(model.provenance, samples)
    values = _values(args, result) | {"seen_in_training": seen}
    if output:
        with write_errors(output) if output.exists() else atomic_directory(output) as folder:
            result.plot(folder or output)
            write_json((folder or output) / "calibration.json", values)
    texts = [f"stored in {Path(args.checkpoint) / 'config.json'}", *([f"written to {output}"] if output else [])]
    if number := seen.get("train"):
        texts.insert(0, f"{number} of these {len(samples)} videos were trained on: calibrate with videos that were not")
    scored = [result.known] + ([result.unknown] if result.unknown else [])
    failures = [VideoError(path, reason) for part in scored for _, path, reason in part.failures]
    total = len(samples) + len(paths)
    terminal.print_warnings([(path, x) for part in scored for _, path, x in part.warnings], total=total)
    tables = [_table(task, result) for task in result.tasks]
    return terminal.finish(args, values, *tables, *texts, failures=failures, total=total)


def _values(args: Namespace, result: "CalibrationResult") -> dict[str, object]:
    scored = [result.known] + ([result.unknown] if result.unknown else [])
    return {
        "checkpoint": args.checkpoint,
        "split": args.split,
        "videos": result.known.videos,
        "unknown_videos": result.unknown.videos if result.unknown else 0,
        "tasks": {task: values.to_dict() for task, values in result.tasks.items()},
        "failed": [{"path": path, "reason": reason} for part in scored for _, path, reason in part.failures],
    }


def _table(task: str, result: "CalibrationResult") -> Table:
    measured = result.tasks[task]
    calibration, error = measured.calibration, measured.after.calibration_error
    unknown = result.unknown
    videos, rejected = f"{result.known.videos}", None
    if unknown is not None and measured.unknown_rejected is not None:
        videos += f", and {unknown.videos} of no class"
        rejected = f"{100 * measured.unknown_rejected:.1f} % of the videos of no class"
    right = f"{100 * calibration.keep:g} % of the correctly classified ones"
    rows = {
        "task": None if task == SINGLE_TASK else task,
        "videos": videos,
        "temperature": f"{calibration.temperature:.3f}",
        "calibration error": f"{100 * measured.before.calibration_error:.2f} % before, {100 * error:.2f} % after",
        "energy threshold": f"{calibration.energy_threshold:.3f}",
        "accepted": f"{100 * measured.coverage:.1f} % of the videos, {right}",
        "rejected": rejected,
        "precision": f"{100 * measured.precision:.1f} % of the accepted videos are right",
    }
    return terminal.key_values(rows)
