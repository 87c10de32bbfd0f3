"""The model card of a checkpoint: README.md, for readers and for the Hugging Face Hub."""

import json
import re
from collections.abc import Mapping
from typing import Any

from xvit.config import SINGLE_TASK, ClassNames, as_task_dict, stored_clip_spec
from xvit.utils.text import printable

_SHOWN_CLASSES = 200
_PROVENANCE = ("source", "data", "metrics", "epoch", "seed", "versions")
_MARKUP = re.compile(r"[&<>`*\[\]|\\~$]|(?<![^\W_])_|_(?![^\W_])")  # an underscore inside a word is none
_CARD = """\
---
library_name: xvit
pipeline_tag: video-classification
tags:
- xvit
- video-classification
- space-time-mixing-attention
---

# Video classification with XViT

A video transformer on {backbone} with {attention} attention.

| | |
|---|---|
{facts}

```python
import xvit

predictor = xvit.Predictor("PATH")  # this directory, or hf://owner/name on the Hub
print(predictor("video.mp4"))
```

{recipe}

## Classes

{classes}
"""


def model_card(config: Mapping[str, Any]) -> str:
    """The text of the model card.

    Args:
        config: the values of the checkpoint's config.json.
    """
    model, clip_spec, provenance = config["model"], config["clip_spec"], config["provenance"]
    sampling = stored_clip_spec(clip_spec, "").sampling_text
    facts = {
        "backbone": model["backbone"],
        "attention": model["attention"],
        "temporal head": model["temporal_head"],
        "input": f"{clip_spec['num_frames']} frames ({sampling}), {clip_spec['image_size']} px",
        "normalisation": f"mean {clip_spec['mean']}, std {clip_spec['std']}",
        **{name: _one_line(provenance[name]) for name in _PROVENANCE if provenance.get(name)},
    }
    return _CARD.format(
        backbone=_escape(model["backbone"]),
        attention=_escape(model["attention"]),
        facts="\n".join(f"| {name} | {_escape(value)} |" for name, value in facts.items()),
        recipe="config.json holds the recipe that trained it." if "recipe" in provenance else "",
        classes="\n".join(_class_lines(config["class_names"])),
    )


def _class_lines(class_names: ClassNames) -> list[str]:
    lines = []
    for task, names in as_task_dict(class_names).items():
        shown = ", ".join(map(_code_span, names[:_SHOWN_CLASSES]))
        total = f", ... ({len(names)} in all)" if len(names) > _SHOWN_CLASSES else ""
        lines.append(shown + total if task == SINGLE_TASK else f"{_code_span(task)}: {shown}{total}")
    return lines


def _code_span(text: str) -> str:
    """Text between more back-ticks than it has in a row, so that none of them ends the span."""
    text = printable(text)
    fence = "`" * (max(map(len, re.findall("`+", text)), default=0) + 1)
    space = " " if text.startswith(("`", " ")) or text.endswith(("`", " ")) else ""  # one at each end is not shown
    return f"{fence}{space}{text}{space}{fence}"


def _one_line(value: Any) -> str:
    """A provenance value in one line."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_one_line(v)}" for key, v in value.items() if not isinstance(v, Mapping))
    return f"{value:.4g}" if isinstance(value, float) else value if isinstance(value, str) else json.dumps(value)


def _escape(text: str) -> str:
    """Text that is neither Markdown nor HTML, also in the cell of a table."""
    return _MARKUP.sub(lambda match: f"&#{ord(match[0])};", " ".join(printable(text).split()))
