"""`xvit probe` on feature files."""

import json

from helpers.color_videos import CLIP
from helpers.features import make_clusters, make_features
from xvit.config import to_dict
from xvit.features.storage import write_features


def test_accuracies_as_a_table_and_as_json(run, tmp_path):
    files = []
    for name, per_class, seed in (("train", 4, 1), ("test", 2, 2)):
        values, labels = make_clusters(per_class, seed=seed, spread=0.01)
        features = make_features(values[:, None], labels, "frames")
        (tmp_path / "raw").write_bytes(features.values.tobytes())
        metadata = {"format": 1, "level": "frames", "model_hash": "m", "clip_spec": to_dict(CLIP)}
        metadata |= {"paths": features.paths, "labels": features.labels}
        files.append(tmp_path / f"{name}.parquet")
        write_features(files[-1], tmp_path / "raw", features.values.shape, metadata)
    code, out, err = run("probe", *files, "--k", "3")
    assert (code, err) == (0, "")
    for text in (
        "3 nearest neighbours",
        "linear layer, C = ",
        "100.00 %",
        "frames averaged to one vector per video, except",
        "attentive probe, weight decay ",
    ):
        assert text in out
    assert "7 classes, 28 training videos, 14 test videos" in out
    code, out, err = run("probe", *files, "--k", "3", "--seed", "4", "--json")
    result = json.loads(out)
    assert (code, err, result["knn"], result["averaged"]) == (0, "", {"top1": 1.0, "top5": 1.0}, "frames")
    message = "xvit: error: k=29: more than the 28 training videos; choose a smaller k\n"
    assert run("probe", *files, "--k", "29")[::2] == (2, message)
    assert "TEST_FEATURES: missing" in run("probe", files[0])[2]
    assert "none.npy: no such file" in run("probe", "none.npy", files[0])[2]
