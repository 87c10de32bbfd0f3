"""The model card of a checkpoint: README.md, for people and for the Hugging Face Hub."""

import json
from collections.abc import Mapping
from typing import Any

import yaml

_SHOWN_LABELS = 200


def model_card(config: Mapping[str, Any]) -> str:
    """The card of a model.

    Args:
        config: the values of its config.json.
    """
    model, clip, provenance = config["model"], config["clip_spec"], config["provenance"]
    head = {
        "library_name": "xvit",
        "pipeline_tag": "video-classification",
        "tags": ["xvit", "video-classification", "space-time-mixing-attention"],
    }
    stride = f", {clip['stride']} apart" if clip["sampling"] == "strided" else ""
    facts = {
        "backbone": model["backbone"],
        "attention": model["attention"],
        "temporal head": model["temporal_head"],
        "input": f"{clip['num_frames']} frames ({clip['sampling']}{stride}) of {clip['image_size']} px",
        "normalisation": f"mean {clip['mean']}, std {clip['std']}",
        **{
            name.replace("_", " "): _plain(provenance[name])
            for name in ("source", "data", "metrics", "epoch", "seed", "versions")
            if provenance.get(name)
        },
    }
    lines = [
        "---",
        yaml.safe_dump(head, sort_keys=False).strip(),
        "---",
        "",
        "# Video classification with XViT",
        "",
        f"A video transformer on {model['backbone']}, with {model['attention']} attention over its frames.",
        "",
        "| | |",
        "|---|---|",
        *(f"| {name} | {_cell(value)} |" for name, value in facts.items()),
        "",
        "```python",
        "import xvit",
        "",
        'predictor = xvit.Predictor("PATH_OR_NAME")  # of this directory, or on the Hub',
        'print(predictor("video.mp4"))',
        "```",
        "",
        "The recipe it was trained by is in config.json." if "recipe" in provenance else "",
        "",
        "## Classes",
        "",
        *_classes(config["class_names"]),
        "",
    ]
    return "\n".join(lines)


def _classes(labels: list[str] | dict[str, list[str]]) -> list[str]:
    lines = []
    for task, names in labels.items() if isinstance(labels, dict) else [("", labels)]:
        shown = ", ".join(f"`{name}`" for name in names[:_SHOWN_LABELS])
        rest = f", ... ({len(names)} in all)" if len(names) > _SHOWN_LABELS else ""
        lines.append(f"{task}: {shown}{rest}" if task else shown + rest)
    return lines


def _plain(value: Any) -> str:
    """A provenance value in one line."""
    if isinstance(value, Mapping):
        return ", ".join(f"{k} {_plain(v)}" for k, v in value.items() if not isinstance(v, Mapping))
    return f"{value:.4g}" if isinstance(value, float) else value if isinstance(value, str) else json.dumps(value)


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())
