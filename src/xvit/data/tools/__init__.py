"""Tools for data sets: `check` finds unusable videos, `resize` re-encodes videos at a smaller size."""
