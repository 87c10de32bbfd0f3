"""Why a model decided: how much each patch of each frame adds to the logit of a class.

    clip    A  B  C  D        the frames that the model sees
    still   C  C  C  C        the same clip held still at one of its frames: it shows the scene, but no motion

    sum of the relevance of all patches  =  logit(clip) - logit(still)  =  what motion adds to the logit

Integrated gradients (Sundararajan, Taly and Yan, 2017) on the tokens x (T, N, D) before the first block. With b the
tokens of the still clip,

    logit(clip) - logit(still)  =  sum over t, n of  (x - b)[t, n] . g[t, n]

where g is the mean gradient of the logit on the straight way from b to x; Gauss-Legendre quadrature takes it at a few
points. How far the sum is from the difference is the completeness error.

A patch differs from the still clip because of what it shows and because of what the still clip shows there. Each is
credited to the frame in which it is seen. With m the background, the median over time of what is seen at a place,

    x - b  =  (x - m) - (b - m)      the first part counts for frame t; the second one, summed over t, for the frame at
                                     which the clip is held still

So a patch that shows the background has no relevance, and the sum stays the same. The relevance is the mean over the
clips held still at each frame in turn.

    T frames (or tubelets), N tokens per frame, D channels, K still clips
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from xvit.config import SINGLE_TASK, DataConfig, as_task_dict
from xvit.data.annotations import Sample
from xvit.data.reading import read_test_clips
from xvit.data.transforms import as_tensor, eval_views, normalize
from xvit.export.runtime import ExportedModel
from xvit.inference.predictor import Predictor
from xvit.models.xvit import XViT
from xvit.utils.errors import XViTError, check_choice

Method = Literal["integrated", "quick", "occlusion"]
METHODS: tuple[Method, ...] = ("integrated", "quick", "occlusion")
ERROR_BOUND = 0.01  # completeness error beyond which relevance should not be trusted
_LITTLE_MOTION = 0.01  # of the logit: below it, the class does not depend on motion
LEAST_RELEVANCE = 0.01  # of the logit, of all patches of a frame: below it, there is nothing to see

_STILL = ". Single frames decide; xvit order measures that for a data set"
_LEAST_DIFFERENCE = 1e-3  # of logits; that of a clip without motion is rounding alone
_POINTS = (4, 8, 16, 32)  # of the quadrature: more are taken until the error is below the bound
_BATCH_TOKENS = 4096  # tokens that go through the model at a time


@dataclass(frozen=True, kw_only=True, eq=False)
class Explanation:
    """How much each patch of a clip adds to the logit of a class, or to its lead over another class.

    Args:
        path: the video.
        task: of the class; empty for a model with a single task.
        target: the class.
        against: the class whose logit is subtracted; None for none.
        method: integrated, quick or occlusion.
        times: (T,) seconds of the frames.
        frames: (T, S, S, 3) uint8, as the model sees them. Of a tubelet, its first frame.
        relevance: (T, rows, columns) float32, in units of the logit.
        logit: of the clip.
        logit_still: of the clip held still, the mean over its frames.
        points: number of gradients taken on the way from each still clip to the clip; 0 for occlusion.
    """

    path: str
    task: str
    target: str
    against: str | None
    method: Method
    times: tuple[float, ...]
    frames: np.ndarray
    relevance: np.ndarray
    logit: float
    logit_still: float
    points: int

    @property
    def frame_relevance(self) -> np.ndarray:
        """(T,) the relevance of each frame: the sum over its patches."""
        return self.relevance.sum(axis=(1, 2), dtype=np.float64)

    @property
    def completeness_error(self) -> float | None:
        """How far the sum of the relevance is from logit - logit_still, as a fraction of that difference.

        None for occlusion, which does not add up to it: patches have effects together that none of them has alone.
        """
        if self.method == "occlusion":
            return None
        difference = self.logit - self.logit_still
        return abs(float(self.frame_relevance.sum()) - difference) / max(abs(difference), _LEAST_DIFFERENCE)

    @property
    def warning(self) -> str:
        """Why the relevance should not be trusted; empty if its sum is within `ERROR_BOUND`."""
        if np.abs(self.relevance).sum(axis=(1, 2)).max() < LEAST_RELEVANCE:
            return "motion changes nothing here: the clip and the clip held still have the same logit" + _STILL
        if abs(self.logit - self.logit_still) < _LITTLE_MOTION * abs(self.logit):
            return "motion changes next to nothing here" + _STILL
        if (self.completeness_error or 0.0) <= ERROR_BOUND:
            return ""
        return f"the relevance does not add up: its error is over {100 * ERROR_BOUND:g} %, so it is a rough guide only"

    def to_dict(self) -> dict[str, Any]:
        """All values but the frames, for JSON."""
        return {
            "path": self.path,
            **({"task": self.task} if self.task else {}),
            "class": self.target,
            "against": self.against,
            "method": self.method,
            "logit": self.logit,
            "logit_still": self.logit_still,
            "completeness_error": self.completeness_error,
            "error_bound": ERROR_BOUND,
            "warning": self.warning,
            "points": self.points,
            "times": list(self.times),
            "frame_relevance": self.frame_relevance.tolist(),
            "patch_relevance": self.relevance.tolist(),
        }


def explain_video(
    predictor: Predictor,
    path: str | Path,
    *,
    target: str | None = None,
    against: str | None = None,
    task: str | None = None,
    method: Method = "integrated",
    fps: float | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Explanation:
    """Explain the decision for one video, from the centre view of one clip.

    Args:
        predictor: with a trained model; exported ones have no gradients.
        path: the video.
        target: the class to explain; the best one if None.
        against: explain the lead of the class over this one.
        task: the task to explain; the first one if None.
        method: integrated; quick, which is one backward pass and usually not complete; or occlusion, which replaces the
            patches one by one by those of the still clips: independent of gradients, and slow.
        fps: frames per second of a folder of frames, 30 if None; a file has its own rate.
        on_progress: called with the number of clips that passed through the model and the greatest number of them.

    Raises:
        VideoError: the file cannot be read.
        XViTError: an exported model; no such class, task or method.
    """
    model = predictor.model
    if isinstance(model, ExportedModel):
        raise XViTError("an exported model has no gradients: explain the checkpoint that it was exported from")
    sample = Sample(path=str(path), label=None, id=str(path), fps=fps)
    clip = read_test_clips(sample, model.clip_spec, 1, DataConfig.decode_timeout)
    views = eval_views(as_tensor(clip.frames), model.clip_spec)[0]  # (frames, C, S, S)
    task = _choose_task(model, task)
    names = as_task_dict(model.class_names)[task]
    pixel_values = normalize(views, model.clip_spec, model.device)[None]
    target = _choose_class(model, pixel_values, task, target, against)
    tubelet = model.config.tubelet_size
    relevance = explain_clip(
        model,
        pixel_values,
        target=names.index(target),
        against=None if against is None else names.index(against),
        task=task,
        method=method,
        on_progress=on_progress,
    )
    return Explanation(
        path=str(path),
        task="" if task == SINGLE_TASK else task,
        target=target,
        against=against,
        method=method,
        times=tuple(clip.times[::tubelet].tolist()),
        frames=views[::tubelet].permute(0, 2, 3, 1).contiguous().numpy(),
        **relevance,
    )


def explain_clip(
    model: XViT,
    pixel_values: Tensor,
    *,
    target: int,
    against: int | None = None,
    task: str = SINGLE_TASK,
    method: Method = "integrated",
    on_progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """The relevance of each patch of one clip.

    Args:
        model: in eval mode.
        pixel_values: (1, T, C, H, W), normalised as `XViT.clip_spec` says.
        target, against: indices of classes.
        task, method, on_progress: as in `explain_video`.

    Returns:
        relevance, logit, logit_still and points of an `Explanation`.

    Raises:
        XViTError: no such method; a shape that the model does not take.
    """
    check_choice("method", method, METHODS)
    clip = TokenFunction(model, pixel_values, partial(_select_logit, task=task, target=target, against=against))
    stills = clip.still_tokens()  # (K, T, N, D)
    report = on_progress or (lambda done, total: None)
    with torch.no_grad():
        logit, logit_still = float(clip(clip.tokens)), float(clip(stills).mean())
    points = 0
    if method == "occlusion":
        relevance = _occlude(clip, stills, report)
    elif method == "quick":
        points = 1
        gradient = clip.gradients(clip.tokens)[0]
        relevance = _credit(clip.tokens[0], stills, gradient.expand(len(stills), -1, -1, -1))
    else:
        relevance, points = _integrate(clip, stills, logit - logit_still, report)
    return {"relevance": clip.patches(relevance), "logit": logit, "logit_still": logit_still, "points": points}


def _credit(tokens: Tensor, stills: Tensor, gradients: Tensor) -> Tensor:
    """The relevance (T, N) of what is seen in each frame.

    Args:
        tokens: (T, N, D), of the clip.
        stills: (K, T, N, D), of the clips held still.
        gradients: (K, T, N, D), the mean gradients on the ways from them to the clip.
    """
    background = stills.median(dim=0).values  # (T, N, D); of an even number of frames, the lower one of the two
    shown = ((tokens - background) * gradients).sum(dim=-1).mean(dim=0)  # (T, N)
    held = ((stills - background) * gradients).sum(dim=(1, 3)) / len(stills)  # (K, N), for the frame of each still clip
    return shown - held


def _integrate(
    clip: "TokenFunction", stills: Tensor, difference: float, report: Callable[[int, int], None]
) -> tuple[Tensor, int]:
    """Integrated gradients (T, N), with as many points as they need to add up to `difference`; and this number."""
    done, total = 0, len(stills) * sum(_POINTS)
    for points in _POINTS:
        nodes, weights = (torch.from_numpy(x).to(stills) for x in np.polynomial.legendre.leggauss(points))
        gradients = torch.zeros_like(stills)
        for number, still in enumerate(stills):
            positions = ((nodes + 1) / 2).view(-1, 1, 1, 1)  # on the way from the still clip (0) to the clip (1)
            shares = (weights / 2).view(-1, 1, 1, 1)
            for some, share in zip(positions.split(clip.batch_size), shares.split(clip.batch_size), strict=True):
                gradients[number] += (share * clip.gradients(still + some * (clip.tokens - still))).sum(dim=0)
                done += len(some)
                report(done, total)
        relevance = _credit(clip.tokens[0], stills, gradients)
        if abs(float(relevance.sum()) - difference) <= ERROR_BOUND * max(abs(difference), _LEAST_DIFFERENCE):
            break
    report(total, total)
    return relevance, points


@torch.no_grad()
def _occlude(clip: "TokenFunction", stills: Tensor, report: Callable[[int, int], None]) -> Tensor:
    """How much the logit falls if a token (t, n) is that of a still clip; the mean over the still clips, (T, N)."""
    T, N = clip.tokens.shape[1:3]
    logit = clip(clip.tokens)
    relevance = torch.zeros(T * N, device=clip.tokens.device)
    places = torch.arange(T * N, device=clip.tokens.device)
    for number, still in enumerate(stills):
        for part in places.split(clip.batch_size):
            tokens = clip.tokens.repeat(len(part), 1, 1, 1).flatten(1, 2)  # (n, T N, D)
            rows = torch.arange(len(part), device=part.device)
            tokens[rows, part] = still.flatten(0, 1)[part]
            relevance[part] += logit - clip(tokens.unflatten(1, (T, N)))
            report(number * T * N + int(part[-1]) + 1, len(stills) * T * N)
    return relevance.view(T, N) / len(stills)


class TokenFunction:
    """The logit of a class as a function of the tokens before the first block.

    Args:
        model: in eval mode.
        pixel_values: (1, T, C, H, W), one clip.
        select: from the model's output to the logit.

    Attributes:
        tokens: (1, T, N, D), those of the clip.
        grid: rows and columns of patches.
        batch_size: how many clips to pass at a time.
    """

    def __init__(self, model: XViT, pixel_values: Tensor, select: Callable[[Any], Tensor]) -> None:
        self.model, self.pixel_values, self.select = model, pixel_values, select
        self.tokens = self._embed(pixel_values)
        height, width = pixel_values.shape[-2:]
        self.grid: tuple[int, int] = model.backbone.patch_embed.dynamic_feat_size((height, width))
        self.batch_size = max(_BATCH_TOKENS // (self.tokens.shape[1] * self.tokens.shape[2]), 1)

    def __call__(self, tokens: Tensor) -> Tensor:
        """Logits (n,) of tokens (n, T, N, D), `batch_size` at a time."""
        return torch.cat([self._logits(part) for part in tokens.split(self.batch_size)])

    def gradients(self, tokens: Tensor) -> Tensor:
        """The gradient of the logit (n, T, N, D) at tokens of that shape, all at once."""
        tokens = tokens.detach().requires_grad_()
        with torch.enable_grad():
            return torch.autograd.grad(self._logits(tokens).sum(), tokens)[0]

    def patches(self, values: Tensor) -> np.ndarray:
        """Of values (T, N), one per token, those of the patches: (T, rows, columns)."""
        patches = values[:, self.model.backbone.num_prefix_tokens :].unflatten(1, self.grid)
        array: np.ndarray = patches.float().cpu().numpy()  # NumPy has no bfloat16
        return array

    def still_tokens(self) -> Tensor:
        """Tokens (K, T, N, D) of the clip held still at each of its K frames (of a tubelet, at its first frame)."""
        T, frames = self.pixel_values.shape[1], range(0, self.pixel_values.shape[1], self.model.config.tubelet_size)
        return torch.cat([self._embed(self.pixel_values[:, k : k + 1].expand(-1, T, -1, -1, -1)) for k in frames])

    @torch.no_grad()
    def _embed(self, pixel_values: Tensor) -> Tensor:
        return self.model.embed(pixel_values)[0]

    def _logits(self, tokens: Tensor) -> Tensor:
        with _tokens_replaced(self.model, tokens):
            return self.select(self.model(self.pixel_values.expand(len(tokens), -1, -1, -1, -1)))


@contextmanager
def _tokens_replaced(model: XViT, tokens: Tensor) -> Iterator[None]:
    """While this is open, the model continues with these tokens, whatever its input."""
    # norm_pre is the last step of `XViT.embed`
    hook = model.backbone.norm_pre.register_forward_hook(lambda module, inputs, output: tokens)
    try:
        yield
    finally:
        hook.remove()


def _select_logit(output: Any, *, task: str, target: int, against: int | None) -> Tensor:
    logits = as_task_dict(output)[task]
    return logits[:, target] if against is None else logits[:, target] - logits[:, against]


def _choose_class(model: XViT, pixel_values: Tensor, task: str, target: str | None, against: str | None) -> str:
    """The class to explain: the best one if `target` is None. Raises `XViTError` if the model has no such classes."""
    names = as_task_dict(model.class_names)[task]
    for name in (target, against):
        if name is not None:
            check_choice("class", name, names)
    if target is None:
        with torch.no_grad():
            target = names[int(as_task_dict(model(pixel_values))[task][0].argmax())]
    if target == against:
        raise XViTError(f"against={against!r}: the class that is explained; choose another one to compare it with")
    return target


def _choose_task(model: XViT, task: str | None) -> str:
    tasks = list(as_task_dict(model.class_names))
    if task is None:
        return tasks[0]
    if tasks == [SINGLE_TASK]:
        raise XViTError(f"task={task!r}: the model has a single task")
    check_choice("task", task, tasks)
    return task
