"""Predict and check videos of a bucket whose server fails at random: all rows must be right, and the retries counted.

    python benchmarks/remote.py [--videos 200] [--fault-rate 0.15] [--seed 0] [--json]

The server is moto's S3 on this machine. A fault is a status (500, 502, 503, 504 or 429) instead of an answer, or a
reset within one. The predictions are compared with those of the same files on the disk. The exit code is 1 if a row is
missing or differs, or if the number of retries is not that of the faults. It needs pip install 'xvit[dev]'.
"""

import argparse
import json
import os
import random
import sys
import tempfile
import threading
import time
from pathlib import Path

from common import log_progress

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from helpers.remote import FaultyS3
from xvit.data.annotations import Sample
from xvit.data.synthetic.dataset import write_motion_dataset
from xvit.data.tools.check import check_file
from xvit.inference.predictor import Predictor
from xvit.utils.addresses import allow_remote
from xvit.utils.errors import VideoError

KINDS = ["500", "502", "503", "504", "429", "reset"]
MISSING = "s3://videos/missing.mp4"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, default=200)
    parser.add_argument("--fault-rate", type=float, default=0.15)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = run(Path(folder), args.videos, args.fault_rate, args.seed)
    print(json.dumps(result, indent=2) if args.json else describe(result))
    return 0 if result["right"] else 1


def run(folder: Path, num_videos: int, fault_rate: float, seed: int) -> dict[str, float | bool]:
    """Predict and check the videos with faults, and count."""
    clips_per_class = -(-num_videos // 8) + 1
    write_motion_dataset(folder, clips_per_class=clips_per_class, val_fraction=0.1, seed=seed)
    paths = sorted(folder.rglob("*.mp4"))[:num_videos]
    server = FaultyS3()
    keys = {"AWS_ACCESS_KEY_ID": "good", "AWS_SECRET_ACCESS_KEY": "good", "AWS_DEFAULT_REGION": "us-east-1"}
    os.environ.update(AWS_ENDPOINT_URL=server.url, AWS_EC2_METADATA_DISABLED="true", **keys)
    server.put("videos", {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths})
    allow_remote("s3")
    addresses = [f"s3://videos/{path.relative_to(folder).as_posix()}" for path in paths] + [MISSING]
    predictor = Predictor("motion")
    expected = list(predictor.predict(paths))
    log_progress(f"{len(paths)} videos predicted from the disk")
    chance, lock = random.Random(seed), threading.Lock()

    def fault(method: str, path: str) -> str:
        with lock:
            kind = chance.choice(KINDS) if chance.random() < fault_rate and path != "/videos/missing.mp4" else ""
        return "503" if kind == "reset" and method != "GET" else kind

    server.fault = fault
    start = time.monotonic()
    found = list(predictor.predict(addresses, num_workers=2))
    seconds = time.monotonic() - start
    retries, injected = (
        sum(count_retries(row.warnings) for row in found[:-1] if not isinstance(row, VideoError)),
        server.injected,
    )
    log_progress(f"{len(found)} rows predicted from the bucket in {seconds:.0f} s")
    reports = [check_file([Sample(path=address, label=None, id=address)]) for address in addresses]
    checked = sum(count_retries(report.info.warnings) for report in reports if report.info)
    wrong = sum(
        isinstance(row, VideoError) or (row.labels, row.scores) != (other.labels, other.scores)
        for row, other in zip(found, expected, strict=False)
    )
    missing = isinstance(found[-1], VideoError) and reports[-1].kind == "missing"
    problems = sum(bool(report.kind) for report in reports[:-1])
    result = {
        "videos": len(paths),
        "rows": len(found),
        "wrong_rows": wrong,
        "missing_named": missing,
        "problems": problems,
    }
    result |= {"seconds": round(seconds, 1), "faults": injected, "retries": retries}
    result |= {"faults_of_check": server.injected - injected, "retries_of_check": checked}
    server.close()
    right = not wrong and missing and not problems and len(found) == len(addresses)
    return result | {"right": right and injected == retries and server.injected - injected == checked}


def count_retries(warnings: tuple[str, ...]) -> int:
    """The number in "downloaded with 3 retries"."""
    return sum(int(text.split()[2]) for text in warnings if text.startswith("downloaded with"))


def describe(result: dict[str, float | bool]) -> str:
    """The result in lines."""
    return "\n".join(f"{name.replace('_', ' '):<18}{value}" for name, value in result.items())


if __name__ == "__main__":
    sys.exit(main())
