"""xvit order CHECKPOINT --data.root DIR [--split val|test] [--pairs FILE] [--peers] [--seed S]

Does a model use the order of frames? It is shown one clip of each video as it is, and the same frames in
other orders: reversed, two neighbours swapped, shuffled, and held still at the middle frame. Prints the
accuracy in each order with its 95 % interval, and how much the logits change, in units of their standard
deviation; beside it, how much they change in the same model with random weights, before any training.

Some classes are the reverse of each other (opening and closing). For such pairs, also prints the pair
accuracy, which is the share of clips whose own class has a higher logit than its twin, and how many reversed
clips are recognised as the twin.
The pairs of the built-in data set are known; for other classes, --pairs names a JSON file of them:
  [["Opening something", "Closing something"], ["Pushing left", "Pushing right"]]

For videos without labels, or with several labels each, only the logits are compared. Data sets are described
as for `xvit eval`. Videos that cannot be read are listed, never replaced; the exit code is then 1.

examples:
  xvit order motion --data.root videos
  xvit order run/best --data.root videos --split test --peers
  xvit order run/best --data.root videos --pairs pairs.json --json
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse import Namespace
from rich.table import Table

from xvit.cli import terminal
from xvit.cli.parsing import TRAINED_MODEL, CommandParser, parse_data_args
from xvit.cli.splits import add_split, describe_seen, read_split
from xvit.config import SINGLE_TASK
from xvit.utils.checkpoint_path import check_checkpoint
from xvit.utils.errors import XViTError
from xvit.utils.files import check_files, read_json

if TYPE_CHECKING:
    from xvit.experiments.order.compare import Change, Share, TaskOrder
    from xvit.experiments.order.run import OrderResult


def add_options(parser: CommandParser) -> None:
    parser.add("checkpoint CHECKPOINT", str, TRAINED_MODEL, check=check_checkpoint)
    parser.add("--pairs FILE", str | None, "JSON: pairs of classes, each the reverse of the other", check=check_files)
    text = "also show the clips to TimeSformer, ViViT and VideoMAE of transformers, with random weights"
    parser.add_switch("--peers", text)
    parser.add("--batch-size N", int, "videos per batch", default=8, low=1)
    parser.add("--seed S", int, "seed of the shuffled orders", default=0, low=0)
    parser.add_device()
    add_split(parser)


parse = parse_data_args


def run(args: Namespace) -> int:
    """Show the model the clips in other orders and print what changes."""
    from xvit.data.seen import count_seen
    from xvit.experiments.order.compare import motion_pairs
    from xvit.experiments.order.run import build_peers, measure_order
    from xvit.models.profiling import model_hash
    from xvit.models.xvit import XViT
    from xvit.utils.devices import default_device

    pairs = read_pairs(Path(args.pairs)) if args.pairs else None
    model = XViT.from_pretrained(args.checkpoint, device=args.device or default_device())
    samples = read_split(args, model.class_names, multi_label=model.config.multi_label, prog="xvit order")
    seen = count_seen(model.provenance, samples)
    with terminal.progress_bar("showing clips in other orders", quiet=args.json) as update:
        result = measure_order(
            model,
            samples,
            pairs=motion_pairs(model.class_names) if pairs is None else pairs,
            peers=build_peers(model) if args.peers else None,
            data=args.data,
            batch_size=args.batch_size,
            seed=args.seed,
            on_progress=update,
        )
    terminal.print_warnings(result.warnings, total=len(samples))
    origin = {"checkpoint": args.checkpoint, "model": model_hash(model), "split": args.split, "seed": args.seed}
    values = origin | {"seen_in_training": seen} | result.to_dict()
    texts = [*_describe(result), *describe_seen(seen, len(samples))]
    return terminal.finish(args, values, *texts, failures=result.failures, total=len(samples))


def read_pairs(path: Path) -> list[tuple[str, str]]:
    """The pairs of class names in a JSON file; raise `XViTError` if it holds anything else."""
    values = read_json(path)
    if not isinstance(values, list) or not all(map(_is_pair, values)):
        raise XViTError(f'{path}: expected a list of pairs of class names: [["opening", "closing"], ...]')
    return [(first, second) for first, second in values]


def _is_pair(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(isinstance(name, str) for name in value)


def _describe(result: "OrderResult") -> Iterator[str | Table]:
    for task, of_task in result.tasks.items():
        yield _table(of_task, None if task == SINGLE_TASK else task)
        if of_task.reversed_as_twin:
            twin = of_task.reversed_as_twin
            yield f"of the {twin.clips} clips with a twin, {twin} are recognised as the twin when reversed"
    if result.peers:
        yield _peer_table(result.peers)
    clips = f"{result.clips} clips; changes of logits are in units of their standard deviation"
    yield f"{clips}; those of untrained models are from the first {result.untrained_clips} clips"
    for task, of_task in result.tasks.items():
        yield of_task.conclusion if task == SINGLE_TASK else f"{task}: {of_task.conclusion}"


def _table(result: "TaskOrder", title: str | None) -> Table:
    """A row per kind of order: accuracies if there are labels, changes of the logits."""
    from xvit.experiments.order.compare import AS_IS

    accuracies = {"top-1": result.top1, "pair accuracy": result.pair_accuracy}
    columns = {name: shares for name, shares in accuracies.items() if shares}
    changes = ("logit change, median", "largest", "untrained, median", "largest")
    table = terminal.table("frames", *columns, *changes, title=title, numeric=range(1, len(columns) + 5))
    for kind in (AS_IS, *result.changes):
        cells = [_format_share(shares[kind]) for shares in columns.values()]
        cells += [
            cell for of_model in (result.changes, result.untrained) for cell in _format_change(of_model.get(kind))
        ]
        table.add_row(kind, *cells)
    return table


def _peer_table(peers: "dict[str, dict[str, Change]]") -> Table:
    kinds = list(next(iter(peers.values())))
    rows = [[name, *(_format_change(of_peer[kind])[1] for kind in kinds)] for name, of_peer in peers.items()]
    title = "other untrained models: largest change of a logit"
    return terminal.table("model", *kinds, rows=rows, title=title, numeric=range(1, len(kinds) + 1))


def _format_share(share: "Share") -> str:
    low, high = share.interval
    return f"{100 * share.share:.1f} % ({100 * low:.1f} to {100 * high:.1f})"


def _format_change(change: "Change | None") -> tuple[str, str]:
    """Median and largest change: 0.21 and 1.1, or 4e-07 and 3e-06; empty for the clips as they are."""
    return ("", "") if change is None else (f"{change.median:.2g}", f"{change.largest:.2g}")
