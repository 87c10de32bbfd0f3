"""The settings of a run that starts from a trained model: what is not stated is taken from the model."""

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from xvit.checkpoint import WEIGHTS, read_metadata
from xvit.checkpoint.hub import find_checkpoint
from xvit.checkpoint.weights import tensor_shapes
from xvit.config import ClipSpec, ModelConfig, RunConfig, flatten, from_dict, merge, to_dict, unflatten
from xvit.models.pretrained import explain_misfit
from xvit.models.xvit import XViT
from xvit.utils.errors import XViTError

_logger = logging.getLogger("xvit")


def inherit_settings(config: RunConfig, stated: Mapping[str, Mapping[str, Any]]) -> RunConfig:
    """Take the model and the clip spec of the trained model in `init.checkpoint_path`, and log what was taken.

    Settings that are stated override those of the trained model. The classes are those of the data set.

    Args:
        config: the recipe; `config.init.checkpoint_path` is a directory.
        stated: the settings that somebody wrote down, by where they did, the strongest last:
            {"mine.yaml": {"model": {"dropout": 0.1}}, "the command line": {"clip": {"num_frames": 16}}}.

    Raises:
        XViTError: not a checkpoint; stated settings with which its weights cannot be used, all in one message.
    """
    source = config.init.checkpoint_path
    directory = find_checkpoint(source)
    trained = read_metadata(directory)
    tensor_shapes(directory / WEIGHTS)  # tells what is wrong with a damaged file
    before = flatten({"model": to_dict(trained.model), "clip": to_dict(trained.clip_spec)})
    before = {key: value for key, value in before.items() if not key.startswith("model.num_classes.")}
    before |= {"model.num_classes": 0, "model.multi_label": False}
    given, places = _collect(stated)
    model, clip = _override(before, given, source)
    after = flatten({"model": to_dict(model), "clip": to_dict(clip)})
    changed = {key: value for key, value in after.items() if before.get(key) != value}
    if explain_misfit(_build(model), trained.model):
        _refuse(source, trained.model, before, changed, places)
    text = f"from {source}: {describe(trained.model, trained.clip_spec)}"
    if changed:
        text += "; changed: " + ", ".join(f"{key} {before.get(key, 'unset')} -> {v}" for key, v in changed.items())
    _logger.info("%s", text)
    return replace(config, model=model, clip=clip)


def resume_settings(config: RunConfig, started: RunConfig, stated: Mapping[str, Mapping[str, Any]]) -> RunConfig:
    """Take the model and the clip spec with which a run was started, overridden by what is stated now."""
    before = flatten({"model": to_dict(started.model), "clip": to_dict(started.clip)})
    model, clip = _override(before, _collect(stated)[0], "config.yaml")
    return replace(config, model=model, clip=clip)


def describe(model: ModelConfig, clip: ClipSpec) -> str:
    """A model and its clips in a few words."""
    options = ", ".join(f"{name}={value}" for name, value in model.backbone_kwargs.items())
    backbone = f"{model.backbone} ({options})" if options else model.backbone
    frames = f"{clip.num_frames} frames ({clip.sampling_text})"
    return f"{backbone}, {model.attention} attention, {frames}, {clip.image_size} px"


def _override(before: Mapping[str, Any], given: Mapping[str, Any], source: str) -> tuple[ModelConfig, ClipSpec]:
    merged = merge(unflatten(before), unflatten(given))
    return from_dict(ModelConfig, merged["model"], source), from_dict(ClipSpec, merged["clip"], source)


def _collect(stated: Mapping[str, Mapping[str, Any]]) -> tuple[dict[str, Any], dict[str, str]]:
    """The stated settings of the model and the clip by their dotted names, and where each is stated."""
    given: dict[str, Any] = {}
    places: dict[str, str] = {}
    for place, settings in stated.items():
        here = flatten({group: settings[group] for group in ("model", "clip") if group in settings})
        given |= here
        places |= dict.fromkeys(here, place)
    for name, other in (("model.num_frames", "clip.num_frames"), ("clip.num_frames", "model.num_frames")):
        if name in given and other not in given:  # they must be equal, so one of them is enough
            given[other] = given[name]
    return given, places


def _refuse(
    source: str, trained: ModelConfig, before: dict[str, Any], changed: dict[str, Any], places: dict[str, str]
) -> None:
    """Raise an error that names the changed settings which keep the weights from being used."""
    keys, culprits = [key for key in changed if key.startswith("model.")], []
    for key in keys:
        alone = merge(to_dict(trained), unflatten({key.removeprefix("model."): changed[key]}))
        try:
            if explain_misfit(_build(from_dict(ModelConfig, alone, source)), trained):
                culprits.append(key)
        except XViTError:  # only together with other changes
            culprits.append(key)
    texts = [
        f"{key}={changed[key]} from {places.get(key)} (its own: {before.get(key, 'unset')})"
        for key in culprits or keys  # or all, if none of them is one alone
    ]
    what = "this setting" if len(texts) == 1 else "these settings"
    raise XViTError(
        f"{source}: its weights cannot be used with {', '.join(texts)}: leave {what} out, or start without "
        "init.checkpoint_path"
    )


def _build(config: ModelConfig) -> XViT:
    with torch.device("meta"):  # takes no memory and no time
        return XViT(config)
