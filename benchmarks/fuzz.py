"""Does xvit answer damaged and hostile files in one line? Thousands of changed files, read in worker processes.

    python benchmarks/fuzz.py --output DIR [--inputs 20000] [--seed 0] [--jobs 2] [--targets video run] [--only N]

Files of twelve container and codec pairs, folders of frames, all annotation formats, recipes, checkpoints, exports, run
folders, feature files, timelines and files to convert are truncated, overwritten, spliced and filled with hostile
values (`fuzz_inputs.py`). Input N of a seed is always the same, and `--only N` reads it in this process. It is

    accepted, warned, refused (`XViTError`)         as it should be; anything else is a finding:
    error          any other exception
    wrong frame    a frame of another number than its index or its time says, without a warning
    wrong value    probabilities that are not finite, a class index out of range, a message that is no line of text
    crash          the worker process died
    hang           no answer within DEADLINE seconds
    memory         more than MAX_MEMORY bytes beyond what the worker held before

Each frame of the videos shows its number, so a frame that decodes to the picture of another one is recognised. What a
file says is what counts: frames that PyAV alone, without any error, decodes in this order are no finding where frames
were copied or removed. A picture that shows no number (`unrecognised`) is no wrong frame: some codecs have no checksum.

Findings are saved to DIR/findings, with the input; the summary goes to DIR/summary.json, also after Ctrl-C. The exit
code is 1 if there are findings.
"""

import argparse
import json
import os
import re
import shutil
import sys
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np

from common import log_progress
from fuzz_inputs import write_input, write_seeds
from fuzz_targets import CONSUMERS, EXPECTED, Finding, check_message
from fuzz_workers import Outcome, campaign
from xvit.utils.errors import XViTError

DEADLINE = 120  # seconds, generous: the machine may be busy
MAX_MEMORY = 2**30
SAVED_PER_KIND = 5


def run_input(number: int, *, seed: int, seeds: Path, folder: Path, targets: Sequence[str]) -> Outcome:
    """Write input `number` to `folder`, which is replaced, and give it to its consumer."""
    rng = np.random.default_rng([seed, number])
    weights = np.array([CONSUMERS[target][0] for target in targets])
    target = targets[rng.choice(len(targets), p=weights / weights.sum())]
    shutil.rmtree(folder, ignore_errors=True)
    case = write_input(seeds, target, folder, rng)
    before, start = reset_peak_memory(), time.monotonic()
    where = detail = ""
    try:
        with warnings.catch_warnings(action="ignore"):
            result = _consume(target, folder, case, seeds, rng)
    except Finding as finding:
        result, detail, where = finding.kind, str(finding), case
    except Exception as error:
        result, detail = "error", traceback.format_exc()[-4000:]
        places = [f for f in traceback.extract_tb(error.__traceback__) if "xvit" in f.filename]
        where = f"{type(error).__name__} in {Path(places[-1].filename).name}:{places[-1].name}" if places else "?"
    seconds, memory = time.monotonic() - start, peak_memory() - before
    if memory > MAX_MEMORY:
        result, where, detail = "memory", case, f"{memory / 1e9:.1f} GB in {seconds:.1f} s, then {result}. {detail}"
    return Outcome(
        number=number,
        target=target,
        case=case,
        result=result,
        where=where,
        detail=detail,
        seconds=seconds,
        memory=memory,
    )


def _consume(target: str, folder: Path, case: str, seeds: Path, rng: np.random.Generator) -> str:
    try:
        return CONSUMERS[target][1](folder, case, seeds, rng)
    except XViTError as error:
        check_message(error)
        return "refused"


def reset_peak_memory() -> int:
    """Let the peak of this process's resident memory start at its present size (Linux). Returns that, in bytes."""
    Path("/proc/self/clear_refs").write_text("5")
    return peak_memory()


def peak_memory() -> int:
    match = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert match is not None
    return 1024 * int(match[1])


def save_finding(outcome: Outcome, folder: Path, findings: Path) -> None:
    """Keep the input of a finding, its outcome and its message."""
    place = findings / f"{outcome.number:06d}-{outcome.result.replace(' ', '-')}-{outcome.target}"
    shutil.rmtree(place, ignore_errors=True)
    if folder.exists():
        shutil.copytree(folder, place / "input")
    place.mkdir(parents=True, exist_ok=True)
    (place / "finding.txt").write_text(f"{asdict(outcome)}\n\n{outcome.detail}\n", errors="backslashreplace")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--inputs", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--targets", nargs="+", choices=CONSUMERS, default=list(CONSUMERS))
    parser.add_argument("--only", type=int, nargs="+", help="read these inputs in this process")
    args = parser.parse_args()
    seeds, findings = args.output.resolve() / "seeds", args.output / "findings"
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # in the workers
    for target in CONSUMERS:  # a model needs the videos of another target
        log_progress(f"writing intact files: {target}")
        write_seeds(seeds, target)
    run = partial(run_input, seed=args.seed, seeds=seeds, targets=args.targets)
    if args.only:
        for number in args.only:
            outcome = run(number, folder=args.output / "only")
            print(f"{outcome}\n{outcome.detail}")
        return 0
    shutil.rmtree(findings, ignore_errors=True)
    start, counts, kinds = time.monotonic(), Counter[tuple[str, str]](), Counter[str]()
    peak = slowest = 0.0
    try:
        for outcome, folder in campaign(
            iter(range(args.inputs)), run, args.output / "workers", jobs=args.jobs, deadline=DEADLINE
        ):
            counts[outcome.target, outcome.result] += 1
            peak, slowest = max(peak, outcome.memory), max(slowest, outcome.seconds)
            if outcome.result not in EXPECTED:
                kind = f"{outcome.target}: {outcome.result}: {outcome.where}"
                kinds[kind] += 1
                if kinds[kind] <= SAVED_PER_KIND:
                    save_finding(outcome, folder, findings)
                log_progress(f"input {outcome.number}: {kind}: {outcome.detail.strip()[-200:]!r}")
            if counts.total() % 500 == 0:
                log_progress(f"{counts.total()} inputs in {time.monotonic() - start:.0f} s, {kinds.total()} findings")
    except KeyboardInterrupt:
        log_progress("stopped")
    summary = {
        "inputs": counts.total(),
        "seed": args.seed,
        "seconds": round(time.monotonic() - start),
        "findings": dict(kinds.most_common()),
        "results": {t: {r: n for (target, r), n in sorted(counts.items()) if target == t} for t, _ in sorted(counts)},
        "peak_memory_bytes": int(peak),
        "slowest_seconds": round(slowest, 1),
    }
    (args.output / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    print(json.dumps(summary, indent=2))
    return 1 if kinds else 0


if __name__ == "__main__":
    sys.exit(main())
