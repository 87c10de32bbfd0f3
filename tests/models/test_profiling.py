"""The hash of a model."""

from helpers.color_videos import make_model
from xvit.models.profiling import model_hash


def test_the_hash_depends_on_weights_and_settings(tmp_path):
    model = make_model()
    model.save_pretrained(tmp_path / "model")
    assert model_hash(type(model).from_pretrained(tmp_path / "model")) == model_hash(model)
    assert model_hash(make_model(window=2)) != model_hash(make_model(window=1))
