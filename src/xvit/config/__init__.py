"""Every setting of xvit, as frozen dataclasses that check themselves, and their way from and to YAML and JSON.

A recipe file holds one `RunConfig`; a checkpoint's config.json holds its `ModelConfig` and `ClipSpec`.
"""

from dataclasses import dataclass, field
from typing import Any, Literal

from xvit.config.files import from_dict as from_dict
from xvit.config.files import read_yaml as read_yaml
from xvit.config.files import to_dict as to_dict
from xvit.config.files import write_whole as write_whole
from xvit.config.model import ATTENTIONS as ATTENTIONS
from xvit.config.model import Attention as Attention
from xvit.config.model import ModelConfig as ModelConfig
from xvit.errors import XViTError, check_choice, check_range

Labels = list[str] | dict[str, list[str]]


@dataclass(frozen=True, kw_only=True)
class ClipSpec:
    """How a video becomes `pixel_values`: the one description, stored in the checkpoint, used everywhere.

    What is left open (0, backbone, or nothing) is filled in from the data config of the image model: `XViT.clip` and a
    checkpoint's are always complete.

    Args:
        num_frames: T, frames a clip.
        sampling: segments (one frame from each of T equal parts of the video) or strided (T frames, `stride`
            apart).
        stride: frames from one sampled frame to the next, for strided sampling.
        image_size: height and width of a view, in pixels; 0 for the backbone's.
        interpolation: bilinear, bicubic, or backbone for the backbone's.
        mean: per-channel mean of the normalisation, of RGB in [0, 1]; empty for the backbone's.
        std: per-channel standard deviation of the normalisation; empty for the backbone's.

    Raises:
        XViTError: a value out of its range or its choices.
    """

    num_frames: int = 8
    sampling: Literal["segments", "strided"] = "segments"
    stride: int = 1
    image_size: int = 0
    interpolation: Literal["backbone", "bilinear", "bicubic"] = "backbone"
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        check_choice("sampling", self.sampling, ("segments", "strided"))
        check_choice("interpolation", self.interpolation, ("backbone", "bilinear", "bicubic"))
        check_range("num_frames", self.num_frames, 1)
        check_range("stride", self.stride, 1)
        check_range("image_size", self.image_size, 0)
        for name in ("mean", "std"):
            values = tuple(getattr(self, name))
            object.__setattr__(self, name, values)
            if len(values) not in (0, 3):
                raise XViTError(f"{name}={values}: expected 3 numbers, one a colour, or none for the backbone's")
        if self.std and min(self.std) <= 0:
            raise XViTError(f"std={self.std}: expected positive numbers")

    @property
    def left_open(self) -> list[str]:
        """Names of the fields that are still the backbone's to fill in."""
        interpolation = self.interpolation != "backbone"
        given = {"image_size": self.image_size, "interpolation": interpolation, "mean": self.mean, "std": self.std}
        return [name for name, value in given.items() if not value]


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Where the videos are and how training varies them.

    `xvit.data.formats.read_data` reads them.

    Args:
        root: folder with train/<class>/*.mp4 and val/<class>/*.mp4, or <class>/*.mp4 to be split by `val_fraction`;
            with another format, the folder that holds the videos. A folder of frames (frame_0001.jpg, ...) counts as
            a video.
        format: folders (as above), or what the annotation files are: list (`path label` lines), kinetics (its CSV),
            ssv2 (Something-Something's JSON), epic (EPIC-KITCHENS-100's CSV).
        train: annotation file of the training videos; not for folders.
        val: annotation file of the held-out videos; not for folders.
        multi_label: a video may have several classes, or none; for the format list, whose lines are then a path and any
            number of labels: `path label label` or `path label;label`.
        label_files: class names, in the order of their numbers: one file, or for epic that of the verbs and that of
            the nouns. Without, they are those that the annotations name.
        fps: frames a second of folders of frames, where the annotations do not tell.
        missing_tolerance: share of the annotated videos that may be missing; they are left out.
        val_fraction: share of each class kept for validation where the folder has no train and val of its own.
        split_seed: seed of that split.
        scale_jitter: smallest and largest short side before the training crop, relative to the view's size.
        horizontal_flip: probability of mirroring a training clip; 0 where left and right are different classes, unless
            `flip_pairs`.
        flip_pairs: a mirrored clip gets the class whose name says left for right and right for left, such as "Pulling
            [something] from right to left"; a class without such another keeps its own.
        auto_augment: a random change of colours or geometry, the same for all frames of a training clip: none, auto
            (AutoAugment's ImageNet policy) or rand (RandAugment: 2 operations of magnitude 9).
        erase: probability of erasing a box of a training clip, the same in all frames: 2 % to a third of the picture.
        workers: loader processes; 0 decodes in the main process.
        unreadable_tolerance: share of the training videos that may turn out unreadable; with more the training stops.
        decode_timeout: seconds after which a video that is still being read counts as unreadable; 0 for no limit.
        class_balanced: draw the training videos with replacement, so that all classes come equally often.
        repeats: repeated augmentation: how many clips of a video come in a row; an epoch then has fewer videos.

    Raises:
        XViTError: a value out of its range or its choices.
    """

    root: str = ""
    format: Literal["folders", "list", "kinetics", "ssv2", "epic"] = "folders"
    train: str = ""
    val: str = ""
    multi_label: bool = False
    label_files: tuple[str, ...] | str = ()
    fps: float = 30.0
    missing_tolerance: float = 0.0
    val_fraction: float = 0.2
    split_seed: int = 0
    scale_jitter: tuple[float, float] = (1.0, 1.25)
    horizontal_flip: float = 0.5
    flip_pairs: bool = False
    auto_augment: Literal["none", "auto", "rand"] = "none"
    erase: float = 0.0
    workers: int = 2
    unreadable_tolerance: float = 0.1
    decode_timeout: float = 120.0
    class_balanced: bool = False
    repeats: int = 1

    def __post_init__(self) -> None:
        check_choice("format", self.format, ("folders", "list", "kinetics", "ssv2", "epic"))
        if self.multi_label and self.format != "list":
            raise XViTError(
                f"multi_label=True with format={self.format!r}: only the format list has several labels a video"
            )
        check_range("fps", self.fps, 0.001)
        check_range("missing_tolerance", self.missing_tolerance, 0, 1)
        files = (self.label_files,) if isinstance(self.label_files, str) else tuple(self.label_files)
        object.__setattr__(self, "label_files", tuple(file for file in files if file))
        check_range("val_fraction", self.val_fraction, 0, 1)
        check_range("horizontal_flip", self.horizontal_flip, 0, 1)
        check_choice("auto_augment", self.auto_augment, ("none", "auto", "rand"))
        check_range("erase", self.erase, 0, 1)
        check_range("workers", self.workers, 0)
        check_range("unreadable_tolerance", self.unreadable_tolerance, 0, 1)
        check_range("decode_timeout", self.decode_timeout, 0)
        check_range("repeats", self.repeats, 1)
        object.__setattr__(self, "scale_jitter", tuple(self.scale_jitter))
        low, high = self.scale_jitter
        if not 0 < low <= high:
            raise XViTError(f"scale_jitter={self.scale_jitter}: expected 0 < smallest <= largest")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One training: optimiser, schedule, regularisation.

    Args:
        epochs: passes over the training videos.
        batch_size: clips a step and process.
        optimizer: adamw, sgd (momentum 0.9), or muon (orthogonalised momentum for the matrices of the blocks, AdamW
            for the rest: fewer steps from scratch).
        lr: peak learning rate.
        lr_batch: clips an update that `lr` is meant for: with more or fewer it is scaled in proportion; 0 to take it as
            it is.
        layer_decay: factor of the learning rate from each of the backbone's layers to the one before it; 1 for none.
        freeze_backbone: train what comes after the image model alone.
        accumulate: batches whose gradients make one update.
        weight_decay: on matrices only; biases, norms, tokens and positions are exempt.
        warmup_epochs: epochs of linear warm-up; a cosine to zero follows.
        clip_grad: largest gradient norm; 0 for no clipping.
        label_smoothing: share of the target spread over all classes.
        loss_weights: weight of each task's loss, such as {"verb": 1.0, "noun": 0.5}; 1 for those left out.
        mixup: alpha of mixup, which blends the clips of a batch in pairs, their labels alike; 0 for none.
        cutmix: alpha of cutmix, which puts a box of one clip into another; 0 for none. With mixup too, each batch gets
            one of the two, by chance.
        ema_decay: decay a step of the averaged weights that are evaluated and saved as best; 0 for none.
        eval_every: epochs between validations; the last epoch is always validated.
        save_minutes: minutes between saves within an epoch of all that is needed to go on; each epoch's end is saved
            too.
        precision: no (fp32), bf16 or fp16 mixed precision.
        compile: torch.compile the model.
        grad_checkpointing: recompute activations in the backward pass: less memory, about a third more time.
        seed: of initial weights, order, sampling and augmentation.

    Raises:
        XViTError: a value out of its range or its choices.
    """

    epochs: int = 30
    batch_size: int = 16
    optimizer: Literal["adamw", "sgd", "muon"] = "adamw"
    lr: float = 1e-3
    lr_batch: int = 0
    layer_decay: float = 1.0
    freeze_backbone: bool = False
    accumulate: int = 1
    weight_decay: float = 0.05
    warmup_epochs: float = 2.0
    clip_grad: float = 1.0
    label_smoothing: float = 0.0
    loss_weights: dict[str, float] = field(default_factory=dict)
    mixup: float = 0.0
    cutmix: float = 0.0
    ema_decay: float = 0.0
    eval_every: int = 1
    save_minutes: float = 10.0
    precision: Literal["no", "bf16", "fp16"] = "no"
    compile: bool = False
    grad_checkpointing: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        check_choice("optimizer", self.optimizer, ("adamw", "sgd", "muon"))
        check_choice("precision", self.precision, ("no", "bf16", "fp16"))
        check_range("lr_batch", self.lr_batch, 0)
        check_range("layer_decay", self.layer_decay, 0, 1)
        for name in ("epochs", "batch_size", "eval_every", "accumulate"):
            check_range(name, getattr(self, name), 1)
        for name in ("lr", "weight_decay", "warmup_epochs", "clip_grad", "save_minutes"):
            check_range(name, getattr(self, name), 0)
        check_range("label_smoothing", self.label_smoothing, 0, 1)
        for task, weight in self.loss_weights.items():
            check_range(f'loss_weights["{task}"]', weight, 0)
        for name in ("mixup", "cutmix"):
            check_range(name, getattr(self, name), 0)
        check_range("ema_decay", self.ema_decay, 0, 1)


@dataclass(frozen=True, kw_only=True)
class EvalConfig:
    """Testing with several views a video, their scores averaged.

    Args:
        temporal_views: clips taken along the video.
        spatial_views: crops along the longer side of each: 1 (the centre) or 3.
        batch_size: videos at a time; so many, with all their views, are in memory for each batch that is being read.

    Raises:
        XViTError: a value out of its range.
    """

    temporal_views: int = 1
    spatial_views: int = 1
    batch_size: int = 16

    def __post_init__(self) -> None:
        check_range("temporal_views", self.temporal_views, 1)
        check_range("spatial_views", self.spatial_views, 1)
        check_range("batch_size", self.batch_size, 1)


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """A recipe: all of one run. recipes/*.yaml hold such files.

    Args:
        model: the video transformer.
        clip: how a video becomes pixel values.
        data: where the videos are.
        train: optimiser and schedule.
        eval: views of the test.
    """

    model: ModelConfig = field(default_factory=ModelConfig)
    clip: ClipSpec = field(default_factory=ClipSpec)
    data: DataConfig = field(default_factory=DataConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)


def by_task(value: Any) -> dict[Any, Any]:
    """A value of each task; the only task of anything but a dict is named None."""
    return value if isinstance(value, dict) else {None: value}


def plain(by_task: dict[Any, Any]) -> Any:
    """The other way: the value of the only task, or the dict of several."""
    return by_task.get(None, by_task)


def labels_by_task(labels: Labels) -> dict[str | None, list[str]]:
    """The labels of each task; the only task of a plain list is named None, as in `ModelConfig.tasks`."""
    return {task: names for task, names in labels.items()} if isinstance(labels, dict) else {None: labels}
