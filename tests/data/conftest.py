import pytest

from helpers.barcode_videos import write_video
from xvit.data.annotations import Sample


@pytest.fixture(scope="module")
def samples(tmp_path_factory) -> list[Sample]:
    """Six videos, an unreadable one (index 3) and a missing one (index 7)."""
    folder = tmp_path_factory.mktemp("data")
    for number in range(6):
        write_video(folder / f"{number}.mp4", frames=20 + 5 * number, width=72, height=64)
    (folder / "bad.mp4").write_text("no video")
    names = ["0", "1", "2", "bad", "3", "4", "5", "missing"]
    return [Sample(path=str(folder / f"{n}.mp4"), label=label, id=f"{n}.mp4") for label, n in enumerate(names)]
