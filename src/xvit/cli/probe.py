"""`xvit probe`: measure how well feature vectors separate classes, without training the model."""

from jsonargparse import ArgumentParser, Namespace

from xvit.cli import terminal
from xvit.cli.exit_codes import SUCCESS
from xvit.cli.parsing import add_json, make_parser, parse_args
from xvit.utils.errors import check_range


def parser() -> ArgumentParser:
    """The options of the command."""
    parser = make_parser(
        "probe",
        "TRAIN_FEATURES TEST_FEATURES [--k K] [--seed N]",
        "Measure the features of a model by the accuracy of two simple classifiers on the test videos: the k "
        "nearest training videos (cosine similarity), and a linear layer (logistic regression).\n"
        "Both files are written by `xvit features`; they hold the labels too. Features of frames or tokens are "
        "averaged to one vector per video.",
        "xvit probe train.npy test.npy\nxvit probe train.safetensors test.safetensors --k 5 --json",
    )
    add = parser.add_argument
    add("train_features", metavar="TRAIN_FEATURES", type=str, help="features of the training videos")
    add("test_features", metavar="TEST_FEATURES", type=str, help="features of the test videos, from the same model")
    add("--k", metavar="K", type=int, default=20, help="number of nearest neighbours")
    add(
        "--seed",
        metavar="N",
        type=int,
        default=0,
        help="seed of the split that selects the regularisation strength of the linear layer",
    )
    add_json(parser)
    return parser


def parse(argv: list[str]) -> Namespace:
    """Parse and check the arguments after the command."""
    args = parse_args(parser(), argv)
    check_range("k", args.k, 1)
    check_range("seed", args.seed, 0)
    return args


def run(args: Namespace) -> int:
    """Probe the features and print the accuracies."""
    from xvit.features.probe import probe_features
    from xvit.features.storage import read_features

    train, test = read_features(args.train_features), read_features(args.test_features)
    with terminal.progress_bar("probing", quiet=args.json) as update:
        result = probe_features(train, test, k=args.k, seed=args.seed, on_progress=update)
    if args.json:
        terminal.print_json(result.to_dict())
        return SUCCESS
    table = terminal.table("method", "top-1", "top-5", numeric=[1, 2])
    methods = {f"{result.k} nearest neighbours": result.knn, f"linear layer, C = {result.C:g}": result.linear}
    for name, accuracy in methods.items():
        top5 = "" if accuracy.top5 is None else f"{100 * accuracy.top5:.2f} %"
        table.add_row(name, f"{100 * accuracy.top1:.2f} %", top5)
    console = terminal.console()
    console.print(table)
    if result.averaged:
        console.print(f"{result.averaged} averaged to one vector per video")
    console.print(f"{result.classes} classes, {result.train_videos} training videos, {result.test_videos} test videos")
    return SUCCESS
