"""Small models with random weights for tests of streams, and their options."""

import torch
from hypothesis import strategies as st

from helpers.color_videos import SIZE, make_model

__all__ = ["SIZE", "add_noise", "make_noisy_model", "model_options"]

model_options = st.fixed_dictionaries(
    {
        "window": st.integers(0, 3),
        "mix_ratio": st.sampled_from([0.0, 0.75, 0.875, 1.0]),
        "mix_inputs": st.sampled_from(["keys_values", "keys", "values", "x"]),
        "boundary_only": st.booleans(),
        "causal": st.booleans(),
        "grouping": st.sampled_from(["flat", "per_head"]),
        "temporal_padding": st.sampled_from(["zero", "replicate"]),
        "mixing_layers": st.sampled_from(["all", "odd", (1,)]),
        "temporal_head": st.sampled_from(["attention", "mean"]),
        "num_frames": st.sampled_from([1, 2, 4, 8]),
    }
)


def add_noise(model):
    """Add noise to all weights: those that are initially zero could hide errors."""
    torch.manual_seed(1)
    with torch.no_grad():
        for tensor in model.parameters():
            tensor.add_(0.1 * torch.randn_like(tensor))
    return model.eval()


def make_noisy_model(**options):
    options = {"temporal_position": "none" if options.get("temporal_head") == "mean" else "head", **options}
    return add_noise(make_model(3, **options))
