"""What became of the tensors of a source of initial weights."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class LoadReport:
    """What became of the tensors of a source. Names are those of the model; `dropped` has the source's.

    Args:
        source: file, directory or name on the Hub.
        loaded: copied unchanged.
        resized: resized to fit: (shape in the source, shape in the model).
        new: not in the source, so still at their initial values.
        dropped: in the source, but not used.
    """

    source: str
    loaded: tuple[str, ...] = ()
    resized: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]] = field(default_factory=dict)
    new: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()

    def __str__(self) -> str:
        parts = [f"{len(self.loaded)} tensors loaded"]
        if self.resized:
            parts.append("resized " + ", ".join(f"{n} {old} -> {new}" for n, (old, new) in self.resized.items()))
        for what, names in (("new", self.new), ("dropped", self.dropped)):
            if names:
                parts.append(f"{what} {group_names(names)}")
        return f"{self.source}: {'; '.join(parts)}"


def group_names(names: Iterable[str]) -> str:
    """Names of tensors by their first parts, with counts: `temporal_head (13), backbone.head (2)`."""
    counts = Counter(".".join(name.split(".")[: 2 if name.startswith("backbone.") else 1]) for name in names)
    return ", ".join(f"{group} ({count})" if count > 1 else group for group, count in counts.items())
