"""The stream of a trained model, behind the interface that exported ones have, too."""

import numpy as np
import torch

from helpers.streams import make_noisy_model
from xvit.config import SINGLE_TASK
from xvit.data.transforms import normalize
from xvit.inference.streams import open_stream
from xvit.models.streaming import Stream

T, L = 2, 2


def test_scores_of_a_trained_stream_and_the_frames_that_cost_nothing():
    model = make_noisy_model(causal=True, window=1, num_frames=T)
    size = model.clip_spec.image_size
    pictures = np.random.default_rng(0).integers(0, 256, (2, 3, size, size), np.uint8)
    stream, reference = open_stream(model), Stream(model, skip_repeats=False)
    for run in (1, 2):  # the count is that of the whole run, the frames begin anew
        for picture in pictures:
            for _ in range(L + 6):
                [index], scores, _ = stream.push(picture[None])
                logits = reference.push(normalize(torch.from_numpy(picture)[None, None], model.clip_spec)).logits
                np.testing.assert_array_equal(scores[SINGLE_TASK], model.probabilities(logits[0]).numpy())
        assert index == 2 * (L + 6) - 1
        assert stream.num_reused == run * 2 * 5  # the last block runs on the first w L + 1 of equal frames
        assert stream.flush().indices == reference.flush().indices == []
        stream.reset()
        reference.reset()
