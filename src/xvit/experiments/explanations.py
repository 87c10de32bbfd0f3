"""How good explanations are, measured on made videos: the renderer knows where the moving object is.

mass          share of the positive relevance on patches that the moving object touches, over their share of all
              patches: 1 is chance
occlusion     Spearman correlation, over all patches of a clip, with the fall of the logit when a patch is replaced by
              that of the still clip: of the absolute values (which patches matter), and with the signs
deletion      area under the probability of the class while the patches are replaced, the most relevant one first, by
              those of the clip held still at its middle frame: the lower the better
insertion     the same while they are put into that still clip, the most relevant one first: the higher the better

Each is a mean over clips. Explanations are compared with the absolute difference of each patch from the still clip
("frame difference"), its difference from the frame before, random numbers, the attention that the class token pays in
the last layer, and gradient times input; and with those of a model whose weights are drawn anew.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import Tensor

from xvit.data.sampling import sample_frames
from xvit.data.synthetic.motion import CLASSES, FPS, FRAMES, draw_scene, to_uint8
from xvit.data.synthetic.shapes import Scene, Shape
from xvit.data.transforms import as_tensor, eval_views, normalize
from xvit.inference.explain import Method, TokenFunction, explain_clip
from xvit.models.attention import SpatialAttention
from xvit.models.xvit import XViT

METHODS = (
    "integrated",
    "quick",
    "gradient x input",
    "attention",
    "difference from still",
    "difference from the frame before",
    "random",
)
_CURVE_STEPS = 20
_CLIPS_KEY = 9  # first number of the random seeds: no clip of another data set is drawn from it


@dataclass(frozen=True)
class MaskedClip:
    """A made clip, and where its moving object is.

    Args:
        label: its class.
        frames: (T, H, W, 3) uint8, sampled as the model samples them.
        mask: (T, H, W) bool.
        times: (T,) seconds.
    """

    label: str
    frames: np.ndarray
    mask: np.ndarray
    times: tuple[float, ...]


@dataclass(frozen=True)
class Scores:
    """The measures of one explanation of one clip; None where they are not defined or not measured."""

    mass: float | None
    occlusion: float | None
    signed_occlusion: float | None
    deletion: float
    insertion: float


def draw_clips(model: XViT, clips_per_class: int, *, seed: int = 0) -> Iterator[MaskedClip]:
    """Clips of the motion data set, as the model samples them, with the masks of what moves in them."""
    for index, label in enumerate(CLASSES):
        pair, backwards = divmod(index, 2)
        for number in range(clips_per_class):
            rng = np.random.default_rng([seed, _CLIPS_KEY, index, number])
            scene = draw_scene(pair, rng, np.arange(FRAMES, dtype=np.float64))
            frames, mask = to_uint8(scene.render(FRAMES)), moving_mask(scene)
            if backwards:
                frames, mask = frames[::-1], mask[::-1]
            chosen = sample_frames(model.clip_spec, np.arange(FRAMES) / FPS, start=0.0, end=FRAMES / FPS)
            yield MaskedClip(label, frames[chosen], mask[chosen], tuple((chosen / FPS).tolist()))


def moving_mask(scene: Scene) -> np.ndarray:
    """Where a moving shape shows, (FRAMES, H, W) bool: where the picture changes if that shape is painted in red."""
    moving = [index for index, shape in enumerate(scene.shapes) if _moves(shape)]
    plain = scene.render(FRAMES)
    mask = np.zeros(plain.shape[:3], dtype=bool)
    for index in moving:
        others = Scene(scene.ground, [shape for number, shape in enumerate(scene.shapes) if number != index])
        mask |= np.abs(plain - others.render(FRAMES)).max(axis=-1) > 0.02
    return mask


def _moves(shape: Shape) -> bool:
    return any(np.ptp(track) > 0 for track in (shape.x, shape.y, shape.size, shape.alpha))


def patch_mask(mask: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """The patches (T, rows, columns) that a mask (T, H, W) touches."""
    T, height, width = mask.shape
    patches: np.ndarray = mask.reshape(T, grid[0], height // grid[0], grid[1], width // grid[1]).max(axis=(2, 4))
    return patches


def mass_ratio(relevance: np.ndarray, patches: np.ndarray) -> float | None:
    """The share of positive relevance (T, rows, columns) on these patches, over their share of all patches."""
    positive = relevance.clip(min=0)
    if not positive.sum() or not patches.any():
        return None
    return float(positive[patches].sum() / positive.sum() / patches.mean())


def rank_correlation(a: np.ndarray, b: np.ndarray) -> float | None:
    """Spearman's correlation of two arrays of the same shape; None if one of them is constant."""
    ranks = _ranks(a.ravel()), _ranks(b.ravel())
    if any(np.ptp(values) == 0 for values in ranks):
        return None
    return float(np.corrcoef(*ranks)[0, 1])


def _ranks(values: np.ndarray) -> np.ndarray:
    """The rank of each value, from 1; equal values share the mean of their ranks."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (counts.cumsum() - (counts - 1) / 2)[inverse]


def relevance_of(name: str, model: XViT, pixel_values: Tensor, target: int, rng: np.random.Generator) -> np.ndarray:
    """The relevance (T, rows, columns) of the patches of one clip (1, T, C, H, W), by one of `METHODS`."""
    if name in ("integrated", "quick"):
        method = cast(Method, name)
        relevance: np.ndarray = explain_clip(model, pixel_values, target=target, method=method)["relevance"]
        return relevance
    clip = TokenFunction(model, pixel_values, lambda output: output[:, target])
    if name == "gradient x input":
        return clip.patches((clip.gradients(clip.tokens) * clip.tokens).sum(dim=-1)[0])
    if name == "attention":
        return clip.patches(_class_token_attention(model, pixel_values))
    if name == "random":
        return rng.random((clip.tokens.shape[1], *clip.grid))
    frames = pixel_values[0].cpu().numpy().mean(axis=1)  # (T, H, W)
    if name == "difference from still":
        differences = np.abs(frames[:, None] - frames[None]).mean(axis=1)
    else:
        differences = np.abs(np.diff(frames, axis=0, prepend=frames[:1]))
    T, height, width = differences.shape
    rows, columns = clip.grid
    return differences.reshape(T, rows, height // rows, columns, width // columns).mean(axis=(2, 4))


@torch.no_grad()
def _class_token_attention(model: XViT, pixel_values: Tensor) -> Tensor:
    """What each frame's class token pays to the tokens of its frame in the last layer, (T, N): the mean over heads."""
    layer: SpatialAttention = model.attention_layers[-1]
    seen: list[Tensor] = []
    hook = layer.attn_drop.register_forward_hook(lambda module, inputs, output: seen.append(output))
    fused = layer.fused_attn
    layer.fused_attn = False  # type: ignore[misc]  # final for torch.jit only
    try:
        model(pixel_values)
    finally:
        hook.remove()
        layer.fused_attn = fused  # type: ignore[misc]
    return seen[0][:, :, 0].mean(dim=1)  # (T, h, M, N) -> (T, N)


@torch.no_grad()
def curve_areas(
    clip: TokenFunction, relevance: np.ndarray, probability: Callable[[Tensor], Tensor]
) -> tuple[float, float]:
    """The areas under the deletion and the insertion curve of one clip, both in [0, 1].

    Args:
        clip: its output are the logits (n, classes).
        relevance: (T, rows, columns).
        probability: of the class, from the logits.
    """
    stills = clip.still_tokens()
    tokens, still = clip.tokens[0], stills[len(stills) // 2]  # (T, N, D)
    T, N = tokens.shape[:2]
    prefix = N - relevance[0].size
    order = np.argsort(-relevance.reshape(-1), kind="stable")
    ranks = torch.empty(len(order), dtype=torch.long)
    ranks[torch.from_numpy(order)] = torch.arange(len(order))
    counts = torch.linspace(0, len(order), _CURVE_STEPS + 1).round().view(-1, 1, 1)
    first = (ranks.view(1, T, -1) < counts)[..., None].to(tokens.device)  # (steps, T, P, 1): the most relevant ones
    curves = []
    for start, end in ((tokens, still), (still, tokens)):
        mixed = start.repeat(len(first), 1, 1, 1)
        mixed[:, :, prefix:] = torch.where(first, end[:, prefix:], start[:, prefix:])
        curves.append(float(torch.trapezoid(probability(clip(mixed))) / _CURVE_STEPS))
    return curves[0], curves[1]


def measure(
    models: Mapping[str, XViT],
    clips: list[MaskedClip],
    *,
    methods: tuple[str, ...] = METHODS,
    on_progress: Callable[[int, int], None] | None = None,
) -> dict[str, dict[str, list[Scores]]]:
    """Measure explanations of the true class of each clip.

    Args:
        models: by name, such as trained and random weights; single-task models with the classes of the motion data.
            What is occluded, deleted and inserted, is so for the first one.
        clips: of `draw_clips`.
        methods: of `METHODS`; of all models but the first one "integrated" only.

    Returns:
        For each model and each method, the scores of all clips.
    """
    first, judge = next(iter(models.items()))
    rng = np.random.default_rng(0)
    results: dict[str, dict[str, list[Scores]]] = {name: {} for name in models}
    for number, item in enumerate(clips, start=1):
        target = list(judge.class_names).index(item.label)
        views = eval_views(as_tensor(item.frames), judge.clip_spec)[0]
        pixel_values = normalize(views, judge.clip_spec, judge.device)[None]
        occlusion = explain_clip(judge, pixel_values, target=target, method="occlusion")["relevance"]
        clip = TokenFunction(judge, pixel_values, lambda output: output)
        patches = patch_mask(item.mask, clip.grid)
        for name, model in models.items():
            for method in methods if name == first else ("integrated",):
                relevance = relevance_of(method, model, pixel_values, target, rng)
                deletion, insertion = curve_areas(clip, relevance, lambda x, k=target: x.softmax(dim=-1)[:, k])  # type: ignore[misc]
                scores = Scores(
                    mass_ratio(relevance, patches),
                    rank_correlation(np.abs(relevance), np.abs(occlusion)),
                    rank_correlation(relevance, occlusion),
                    deletion,
                    insertion,
                )
                results[name].setdefault(method, []).append(scores)
        if on_progress is not None:
            on_progress(number, len(clips))
    return results
