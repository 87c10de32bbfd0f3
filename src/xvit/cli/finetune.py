"""xvit finetune VIDEOS [--output DIR] [--init CHECKPOINT | --backbone NAME] [--image-size S] [--minutes M]
                    [--config RECIPE]

From a folder of labelled clips, VIDEOS/<class>/*.mp4, to a model whose accuracy is known. Twenty clips of a
class are enough to start, and two cores. Checks the videos; compares three ways to train by
cross-validation, as far as the time allows, cheapest first:
  head  the last layers only, on features that are computed once
  lora  small updates of the attention too
  full  all weights
Takes the cheapest way that is not clearly worse than the best, trains it on all videos, and writes
DIR/report.md: the accuracy with its interval, the confusions, the most doubtful videos. The model is in
DIR/final/last. Run the same command to continue after a stop; with more --minutes it compares more.
The time is that of this call. The head is trained in any case, even if it takes longer.
The weights to start from come from the Hugging Face Hub, or with --init from a trained model or a file of
image weights. The recipe, finetune if unset, has the settings that all ways share. All videos are used,
those of VIDEOS/train and VIDEOS/val too; those of VIDEOS/test are left for a test.

examples:
  xvit finetune clips
  xvit finetune clips --output model --minutes 60
  xvit finetune clips --init motion
  xvit finetune clips --init dinov2_small.safetensors --backbone vit_small_patch14_dinov2 --image-size 224
  xvit finetune videos --data.format list --data.train clips.txt
"""

from dataclasses import replace
from typing import TYPE_CHECKING

from jsonargparse import Namespace
from rich.progress import Progress

from xvit.cli import terminal
from xvit.cli.parsing import CommandParser, parse_args, read_recipe
from xvit.config import DataConfig, InitConfig, RunConfig
from xvit.utils.addresses import check_video_root
from xvit.utils.checkpoint_path import resolve_bundled
from xvit.utils.errors import XViTError
from xvit.utils.files import check_exists, check_writable_directory
from xvit.utils.threads import available_cores

if TYPE_CHECKING:
    from xvit.training import Progress as TrainingEvent

_BACKBONE = "vit_small_patch16_224"


def add_options(parser: CommandParser) -> None:
    parser.add("videos VIDEOS", str, "folder of the labelled clips", check=check_video_root)
    text = "folder to create, or to continue in"
    parser.add("--output DIR", str, text, check=check_writable_directory, default="finetuned")
    text = "start from a trained model (a folder, or motion), or from a file of weights of the image model"
    parser.add("--init CHECKPOINT", str | None, text, check=lambda path: check_exists(resolve_bundled(path)))
    parser.add("--backbone NAME", str | None, f"image model of timm; {_BACKBONE}, or that of --init, if unset")
    text = "height and width of the frames in pixels; that of the image model or of --init, if unset; fewer are faster"
    parser.add("--image-size S", int | None, text, low=1)
    parser.add("--minutes M", float, "time for everything", default=10.0, low=0.01)
    parser.add("--config RECIPE", str, "recipe (a YAML file, or a name)", default="finetune", check=read_recipe)
    parser.add_threads()
    parser.add_class_arguments(DataConfig, "data", skip={"root", "val_fraction", "test_fraction", "class_balanced"})
    parser.add_data_checks()
    del parser.checks["data.root"]  # the folder of the videos is an argument here


def parse(parser: CommandParser, argv: list[str]) -> Namespace:
    """Parse the options; those of the data become a `DataConfig`."""
    return parser.instantiate(parse_args(parser, argv))


def _build_recipe(args: Namespace) -> RunConfig:
    """The recipe that all ways share."""
    from xvit.training.inherit import inherit_settings
    from xvit.utils.devices import default_device

    recipe = read_recipe(args.config)
    is_cpu = default_device().type == "cpu"  # where bfloat16 is slower, unless the processor has units for it
    recipe = replace(
        recipe,
        data=replace(args.data, root=args.videos, num_workers=min(args.data.num_workers, available_cores())),
        train=replace(recipe.train, precision="fp32" if is_cpu else recipe.train.precision),
        eval=replace(recipe.eval, temporal_views=1, spatial_views=1),  # as `xvit predict`
    )
    size = {} if args.image_size is None else {"image_size": args.image_size}
    if args.init and resolve_bundled(args.init).is_dir():
        if args.backbone:
            raise XViTError(f"--backbone {args.backbone}: not together with --init {args.init}, which has its own")
        return inherit_settings(
            replace(recipe, init=InitConfig(checkpoint_path=args.init)), {"the command line": {"clip": size}}
        )
    init = InitConfig(checkpoint_path=args.init) if args.init else InitConfig(pretrained=True)
    model = replace(recipe.model, backbone=args.backbone or _BACKBONE)
    return replace(recipe, init=init, model=model, clip=replace(recipe.clip, **size))


def run(args: Namespace) -> int:
    """Fine-tune, and print the comparison and the next commands."""
    from xvit.experiments.finetune.report import COLUMNS, calibration_line, next_commands, summary_line, way_rows
    from xvit.experiments.finetune.run import FinetuneCallbacks, finetune

    recipe = _build_recipe(args)
    with terminal.progress_display(quiet=args.json) as display:
        steps = _Steps(display, quiet=args.json)
        callbacks = FinetuneCallbacks(
            on_message=steps.on_message, on_count=steps.on_count, on_training=steps.on_training
        )
        try:
            result = finetune(args.output, recipe, minutes=args.minutes, callbacks=callbacks)
        except KeyboardInterrupt as stop:
            stop.args = ()  # without the advice of a training: the same command goes on
            raise
    table = terminal.table(*COLUMNS, rows=way_rows(result), numeric=[1, 4])
    commands = [f"  {command}" for command in next_commands(result)]
    places = f"Report: {result['report']}. Model: {result['model']}"
    texts = (summary_line(result), calibration_line(result), places)
    return terminal.finish(args, result, table, *texts, "Next:", *commands)


class _Steps:
    """Shows the progress of `finetune`: a line per message, a bar for the current step."""

    def __init__(self, display: Progress, *, quiet: bool) -> None:
        self.display, self.quiet, self.name = display, quiet, ""
        self.training: terminal.TrainingProgress | None = None

    def on_message(self, text: str) -> None:
        if not self.quiet:
            self.display.console.print(text)

    def on_count(self, name: str, done: int, total: int) -> None:
        if name != self.name:
            self._clear(name)
            self.task = self.display.add_task(name)
        self.display.update(self.task, completed=done, total=total)

    def on_training(self, name: str, event: "TrainingEvent") -> None:
        if name != self.name or self.training is None:
            self._clear(name)
            self.training = terminal.TrainingProgress(self.display, name, quiet=True)
        self.training(event)

    def _clear(self, name: str) -> None:
        for task in self.display.task_ids:
            self.display.remove_task(task)
        self.name, self.training = name, None
