"""Cost of a stream whose picture stands still, and of one that computes only the patches that changed.

    python benchmarks/still.py [--backbone vit_small_patch16_224] [--frames 500] [--json]
    python benchmarks/still.py --checkpoint run/best --data videos [--json]

The first form: a camera at which something happens now and then. In each event every frame is a new picture, and after
it the picture stands still, bit for bit. A stream that skips what repeats is compared with one that does not.

The second form: the validation videos of a folder, each pushed frame by frame through the streams of a trained model
that carry unchanged patches forward, for several thresholds; as a control, as many random patches are carried forward.
A video's class is the best of its scores, averaged over all predictions from a whole clip on.

MACs are those that torch's FlopCounterMode counts while the streams run. It does not see the fused attention kernels of
a CPU, so attention is computed by matrix products.
"""

import argparse
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from common import log_progress
from xvit import XViT, create_model
from xvit.config import DataConfig
from xvit.data.annotations import load_splits
from xvit.data.decode.sequential import FrameReader
from xvit.data.transforms import as_tensor, eval_views, normalize
from xvit.models.stream_patches import ChangedPatches
from xvit.models.streaming import Stream, StreamOutput

NUM_FRAMES = 8  # T
CAMERAS = ((0.5, 1), (0.9, 1), (0.95, 1), (0.95, 2), (0.95, 5), (0.99, 1))  # repeated share, events
THRESHOLDS = (0, 0.02, 0.1, 0.4)  # in the units of normalised pixel values


class CountedStream:
    """A stream, and the multiply-adds of its pushes."""

    def __init__(self, stream: Stream) -> None:
        self.stream, self.macs = stream, 0

    def push(self, frame: Tensor) -> StreamOutput:
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
            output = self.stream.push(frame)
        self.macs += counter.get_total_flops() // 2
        return output


class MeasuredPatches(ChangedPatches):
    """Counts the patches that are computed; the control computes as many, but random ones."""

    def __init__(self, model: XViT, threshold: float, *, random: bool) -> None:
        super().__init__(model, threshold)
        self.generator = torch.Generator().manual_seed(0) if random else None
        self.num_computed = 0

    def select(self, frame: Tensor) -> Tensor:
        tokens = super().select(frame)
        self.num_computed += len(tokens) - self.num_prefix_tokens
        if self.generator is None:
            return tokens
        height, width = (size // patch for size, patch in zip(frame.shape[3:], self.patch_size, strict=True))
        drawn = torch.randperm(height * width, generator=self.generator)[: len(tokens) - self.num_prefix_tokens]
        return torch.cat([tokens[: self.num_prefix_tokens], self.num_prefix_tokens + drawn.sort().values])


def watch_camera(num_frames: int, share: float, events: int, size: int) -> Iterator[Tensor]:
    """Frames (1, 1, 3, H, W), of which `share` repeat the frame before; the others are the starts of equal periods."""
    generator = torch.Generator().manual_seed(0)
    moving = round(num_frames * (1 - share))
    periods = [(moving * i // events, num_frames * i // events) for i in range(events + 1)]
    for (first, start), (last, end) in itertools.pairwise(periods):
        for index in range(end - start):
            if index < last - first:
                frame = torch.randn(1, 1, 3, size, size, generator=generator)
            yield frame


def measure_still(backbone: str, num_frames: int) -> list[dict[str, Any]]:
    """MACs a frame with and without skipping, and the largest difference of the logits, for each camera."""
    torch.manual_seed(0)
    model = create_model(backbone, num_classes=174, num_frames=NUM_FRAMES, causal=True, temporal_position="head").eval()
    rows = []
    for share, events in CAMERAS:
        log_progress(f"camera: {share:.0%} of {num_frames} frames repeated, {events} events")
        computing, skipping = (CountedStream(Stream(model, skip_repeats=skip)) for skip in (False, True))
        difference, equal = 0.0, True
        for frame in watch_camera(num_frames, share, events, model.clip_spec.image_size):
            expected, output = computing.push(frame), skipping.push(frame)
            difference = max(difference, float((output.logits - expected.logits).abs().max()))
            equal = (
                equal and torch.equal(output.logits, expected.logits) and torch.equal(output.frames, expected.frames)
            )
        rows.append(
            {
                "repeated": share,
                "events": events,
                "macs_per_frame": computing.macs / num_frames,
                "macs_per_frame_skipping": skipping.macs / num_frames,
                "ratio": computing.macs / skipping.macs,
                "max_difference": difference,
                "bit_equal": equal,
            }
        )
    return rows


def read_videos(model: XViT, folder: Path) -> list[tuple[int, Tensor]]:
    """Label and frames (1, T', C, S, S) of each validation video, at the rate and stride of the model's training."""
    spec, splits = model.clip_spec, load_splits(DataConfig(root=str(folder)))
    videos = []
    for sample in splits.val:
        reader = FrameReader(
            sample.path, stride=spec.spacing or 1, frame_rate=spec.frame_rate, short_side=spec.image_size
        )
        pixels = torch.cat([eval_views(as_tensor(frames), spec)[0] for _, frames in reader])
        videos.append((model.class_names.index(splits.class_names[sample.label]), normalize(pixels, spec)[None]))
    return videos


def measure_patches(model: XViT, videos: list[tuple[int, Tensor]]) -> list[dict[str, Any]]:
    """Accuracy, MACs a frame and the share of unchanged patches: of the whole model, and for each threshold."""
    rows = [measure_stream(model, videos, None)]
    for threshold in THRESHOLDS:
        for random in (False, True):
            log_progress(f"threshold {threshold}, {'random' if random else 'unchanged'} patches")
            rows.append(measure_stream(model, videos, MeasuredPatches(model, threshold, random=random)))
    return rows


def measure_stream(model: XViT, videos: list[tuple[int, Tensor]], patches: MeasuredPatches | None) -> dict[str, Any]:
    """One row: all videos through a stream with these patches, or with all of them."""
    counted = CountedStream(Stream(model, unchanged_threshold=patches and patches.threshold))
    counted.stream.patches = patches
    num_correct = num_frames = 0
    for label, video in videos:
        counted.stream.reset()
        scores = [model.probabilities(counted.push(frame).logits[:, 0]) for frame in video.split(1, dim=1)]
        whole_clips = scores[min(model.config.num_frames, len(scores)) - 1 :]
        num_correct += int(torch.stack(whole_clips).mean(dim=0).argmax()) == label
        num_frames += video.shape[1]
    num_patches = num_frames * model.backbone.patch_embed.num_patches
    return {
        "threshold": patches and patches.threshold,
        "carried": patches and ("random" if patches.generator else "unchanged"),
        "carried_share": 1 - patches.num_computed / num_patches if patches else 0.0,
        "macs_per_frame": counted.macs / num_frames,
        "num_correct": num_correct,
        "accuracy": num_correct / len(videos),
    }


def print_still(rows: list[dict[str, Any]]) -> None:
    columns = ["repeated", "events", "MACs a frame", "skipping repeats", "ratio", "largest difference", "bit-equal"]
    print(" ".join(f"{column:>18}" for column in columns))
    for row in rows:
        print(
            f"{row['repeated']:18.0%} {row['events']:18} {row['macs_per_frame'] / 1e9:16.3f} G "
            f"{row['macs_per_frame_skipping'] / 1e9:16.3f} G {row['ratio']:18.2f} {row['max_difference']:18} "
            f"{row['bit_equal']!s:>18}"
        )


def print_patches(rows: list[dict[str, Any]]) -> None:
    columns = ["threshold", "carried patches", "share", "MACs a frame", "ratio", "accuracy"]
    print(" ".join(f"{column:>15}" for column in columns))
    for row in rows:
        threshold = "" if row["threshold"] is None else row["threshold"]
        print(
            f"{threshold:>15} {row['carried'] or 'none':>15} {row['carried_share']:15.1%} "
            f"{row['macs_per_frame'] / 1e6:13.3f} M {rows[0]['macs_per_frame'] / row['macs_per_frame']:15.2f} "
            f"{row['accuracy']:15.1%}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="vit_small_patch16_224")
    parser.add_argument("--frames", type=int, default=500, help="frames of each camera")
    parser.add_argument("--checkpoint", help="a trained causal model")
    parser.add_argument("--data", type=Path, help="folder of its videos, of which val/ is used")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of a table")
    args = parser.parse_args()
    if bool(args.checkpoint) != bool(args.data):
        parser.error("--checkpoint and --data belong together")
    torch.set_grad_enabled(False)
    if args.checkpoint:
        model = XViT.from_pretrained(args.checkpoint)
        videos = read_videos(model, args.data)
        title, rows = f"{args.checkpoint}, {len(videos)} videos", measure_patches(model, videos)
    else:
        title, rows = f"{args.backbone}, {args.frames} frames", measure_still(args.backbone, args.frames)
    if args.json:
        print(json.dumps({"measured": title, "torch": torch.__version__, "rows": rows}, indent=2))
        return
    print(f"{title}, torch {torch.__version__}\n")
    (print_patches if args.checkpoint else print_still)(rows)


if __name__ == "__main__":
    main()
