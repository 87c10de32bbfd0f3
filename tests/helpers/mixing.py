"""Random mixing patterns for attention layers with 2 heads and 16 channels."""

import torch
from hypothesis import strategies as st

from helpers.reference import mix_channels, split_heads
from xvit.config import ModelConfig, model_config
from xvit.models.backbone import build_pattern
from xvit.models.mixing import MixingPattern

H, D = 2, 16  # heads, channels

mixing_options = st.fixed_dictionaries(
    {
        "window": st.integers(0, 3),
        "mix_ratio": st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]),
        "mix_inputs": st.sampled_from(["keys_values", "keys", "values", "x"]),
        "boundary_only": st.booleans(),
        "causal": st.booleans(),
        "grouping": st.sampled_from(["flat", "per_head"]),
        "temporal_padding": st.sampled_from(["zero", "replicate"]),
    }
)


def make_pattern(**options) -> MixingPattern:
    """The mixing pattern of a layer with `H` heads and `D` channels."""
    return build_pattern(model_config(ModelConfig(), **options), H, D // H)


def mix_reference(x: torch.Tensor, options: dict) -> torch.Tensor:
    """Reference for the mixing of x, (T, N, D), by `make_pattern(**options)`."""
    parts = split_heads(x, H) if options["grouping"] == "per_head" else [x]
    names = ("window", "mix_ratio", "boundary_only", "causal", "temporal_padding")
    return torch.cat([mix_channels(part, **{name: options[name] for name in names}) for part in parts], dim=-1)
