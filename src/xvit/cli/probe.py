"""xvit probe TRAIN_FEATURES TEST_FEATURES [--k K] [--seed N]

Measure the features of a model by the accuracy of simple classifiers on the test videos: the k nearest
training videos (cosine similarity), a linear layer (logistic regression), and for --level frames or tokens
an attentive probe: a learned query that attends to the frames, whose order it knows.
Both files are written by `xvit features`; they hold the labels too. For the first two classifiers, features
of frames or tokens are averaged to one vector per video, in which their order is lost.

examples:
  xvit probe train.npy test.npy
  xvit probe train.safetensors test.safetensors --k 5 --json
"""

from jsonargparse import Namespace

from xvit.cli import terminal
from xvit.cli.parsing import CommandParser
from xvit.utils.files import check_files


def add_options(parser: CommandParser) -> None:
    parser.add("train_features TRAIN_FEATURES", str, "features of the training videos", check=check_files)
    parser.add(
        "test_features TEST_FEATURES", str, "features of the test videos, from the same model", check=check_files
    )
    parser.add("--k K", int, "number of nearest neighbours", default=20, low=1)
    text = "seed of the split that selects the regularisation strength, and of the attentive probe"
    parser.add("--seed N", int, text, default=0, low=0)


def run(args: Namespace) -> int:
    """Probe the features and print the accuracies."""
    from xvit.features.probe import probe_features
    from xvit.features.storage import read_features

    train, test = read_features(args.train_features), read_features(args.test_features)
    with terminal.progress_bar("probing", quiet=args.json) as update:
        result = probe_features(train, test, k=args.k, seed=args.seed, on_progress=update)
    table = terminal.table("method", "top-1", "top-5", numeric=[1, 2])
    methods = {f"{result.k} nearest neighbours": result.knn, f"linear layer, C = {result.C:g}": result.linear}
    if result.attentive:
        methods[f"attentive probe, weight decay {result.weight_decay:g}"] = result.attentive
    for name, accuracy in methods.items():
        top5 = "" if accuracy.top5 is None else f"{100 * accuracy.top5:.2f} %"
        table.add_row(name, f"{100 * accuracy.top1:.2f} %", top5)
    lines = ["No attentive probe: it needs the features of frames (xvit features --level frames)."]
    if result.averaged:
        lines = [f"{result.averaged} averaged to one vector per video, except for the attentive probe"]
    lines += [f"{result.classes} classes, {result.train_videos} training videos, {result.test_videos} test videos"]
    return terminal.finish(args, result.to_dict(), table, *lines)
