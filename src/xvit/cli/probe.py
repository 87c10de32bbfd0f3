"""`xvit probe`: how well features tell classes apart, without training a model."""

from jsonargparse import ArgumentParser, Namespace

from xvit.cli import terminal
from xvit.cli.exit_codes import SUCCESS
from xvit.cli.parsing import add_json, make_parser
from xvit.cli.parsing import parse as parse_words
from xvit.utils.errors import check_range


def parser() -> ArgumentParser:
    """The options."""
    made = make_parser(
        "probe",
        "TRAIN_FEATURES TEST_FEATURES [--k K] [--seed N]",
        "Measure the features of a model that `xvit features` wrote, by the accuracy on the test videos of\n"
        "the k nearest training videos (cosine similarity) and of a linear layer (logistic regression).\n"
        "The labels are in the files. Features of frames or tokens are averaged to one vector a video.",
        "xvit probe train.npy test.npy\nxvit probe train.safetensors test.safetensors --k 5 --json",
    )
    made.add_argument("train_features", metavar="TRAIN_FEATURES", type=str, help="features to learn from")
    made.add_argument("test_features", metavar="TEST_FEATURES", type=str, help="features of the same model, to test")
    made.add_argument("--k", metavar="K", type=int, default=20, help="neighbours")
    made.add_argument(
        "--seed", metavar="N", type=int, default=0, help="of the split that chooses the linear layer's regularisation"
    )
    add_json(made)
    return made


def parse(argv: list[str]) -> Namespace:
    """Check the words after the command."""
    args = parse_words(parser(), argv)
    check_range("k", args.k, 1)
    check_range("seed", args.seed, 0)
    return args


def run(args: Namespace) -> int:
    """Probe."""
    from xvit.features.probe import probe
    from xvit.features.storage import read

    train, test = read(args.train_features), read(args.test_features)
    with terminal.counter("probing", quiet=args.json) as advance:
        result = probe(train, test, k=args.k, seed=args.seed, on_progress=advance)
    if args.json:
        terminal.print_json(result.to_dict())
        return SUCCESS
    shown = terminal.table("method", "top-1", "top-5", numbers=(1, 2))
    methods = {f"{result.k} nearest neighbours": result.knn, f"linear layer, C = {result.C:g}": result.linear}
    for name, accuracy in methods.items():
        top5 = "" if accuracy.top5 is None else f"{100 * accuracy.top5:.2f} %"
        shown.add_row(name, f"{100 * accuracy.top1:.2f} %", top5)
    out = terminal.console()
    out.print(shown)
    if result.averaged:
        out.print(f"{result.averaged} averaged to one vector a video")
    out.print(f"{result.classes} classes, {result.train_videos} training videos, {result.test_videos} test videos")
    return SUCCESS
