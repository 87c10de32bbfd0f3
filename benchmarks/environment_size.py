"""Size of an environment that predicts without torch, by package; see docs/guides/deploy.md.

    python benchmarks/environment_size.py [--runtime onnxruntime] [--command-line]

Creates a virtual environment in a temporary folder and installs the packages into it, which needs a package index.
"""

import argparse
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from common import log_progress

PACKAGES = ("numpy", "av>=18", "pillow>=10", "PyYAML")
RUNTIMES = {"onnxruntime": "onnxruntime>=1.27", "openvino": "openvino>=2025.2"}
COMMAND_LINE = ("jsonargparse", "rich")
# Run in the environment. Compiled files are not in the list of a package's files: they count for "compiled".
LIST_SIZES = """
import importlib.metadata, pathlib
for package in importlib.metadata.distributions():
    files = [pathlib.Path(package.locate_file(file)) for file in package.files]
    print(package.name, package.version, sum(f.stat().st_size for f in files if f.is_file() and f.suffix != ".pyc"))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runtime", choices=RUNTIMES, default="onnxruntime")
    parser.add_argument("--command-line", action="store_true", help="what the command line needs, too")
    args = parser.parse_args()
    packages = [*PACKAGES, RUNTIMES[args.runtime], *(COMMAND_LINE if args.command_line else ())]
    with TemporaryDirectory() as folder:
        python = Path(folder) / "bin" / "python"
        log_progress(f"installing {' '.join(packages)}")
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        checkout = Path(folder) / "xvit"  # a copy, because pip leaves files in the folder that it builds from
        shutil.copytree(Path(__file__).parents[1], checkout, ignore=shutil.ignore_patterns(".*", "build"))
        for arguments in (packages, ["--no-deps", checkout]):
            subprocess.run([python, "-m", "pip", "install", "--quiet", *arguments], check=True)
        listed = subprocess.run([python, "-I", "-c", LIST_SIZES], check=True, capture_output=True, text=True).stdout
        files = [path for path in (Path(folder) / "lib").rglob("*") if path.is_file() and not path.is_symlink()]
        sizes = {path: path.stat().st_size for path in files}
    rows = [(f"{name} {version}", int(size)) for name, version, size in map(str.split, listed.splitlines())]
    rows.append(("compiled files (.pyc)", sum(size for path, size in sizes.items() if path.suffix == ".pyc")))
    for name, size in sorted(rows, key=lambda row: -row[1]):
        print(f"{name:34} {size / 1e6:8.1f} MB")
    print(f"{'all':34} {sum(sizes.values()) / 1e6:8.1f} MB")


if __name__ == "__main__":
    main()
