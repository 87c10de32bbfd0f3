"""Draw the pictures of docs/how/mixing.md.

    python scripts/make_method_pictures.py

replaces docs/images/mixing.png and docs/images/reach.png. The mixed key is drawn from `channel_slices`, as the model
uses it.
"""

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from xvit.models.mixing import channel_slices, temporal_offsets

TARGET = Path(__file__).parents[1] / "docs" / "images"
CHANNELS = 16
COLORS = {-1: "#0072b2", 0: "#767676", 1: "#d55e00"}  # of the frames t - 1, t, t + 1
NAMES = {-1: "t − 1", 0: "t", 1: "t + 1"}


def draw_key(axes: Axes, y: float, frames: list[int], used: list[bool]) -> None:
    """A bar of channels, each in the colour of the frame that it is read from; pale if it is not used."""
    for channel, frame in enumerate(frames):
        style = {"facecolor": COLORS[frame], "alpha": 1 if used[channel] else 0.25}
        axes.add_patch(Rectangle((channel, y), 1, 0.6, edgecolor="white", linewidth=1, **style))


def draw_mixing() -> Figure:
    """Keys of three frames, and below them the mixed key of the middle frame."""
    slices = channel_slices(CHANNELS, 0.5, temporal_offsets(1))
    mixed = [0] * CHANNELS
    for part in slices:
        mixed[part.start : part.stop] = [part.offset] * (part.stop - part.start)
    figure = Figure(figsize=(8, 3.6), layout="constrained")
    axes = figure.subplots()
    for row, frame in enumerate((1, 0, -1)):
        y = 3 - row
        draw_key(axes, y, [frame] * CHANNELS, [source == frame for source in mixed])
        axes.text(-0.4, y + 0.3, f"key of frame {NAMES[frame]}", ha="right", va="center", color=COLORS[frame])
    draw_key(axes, -0.6, mixed, [True] * CHANNELS)
    axes.text(-0.4, -0.3, "mixed key of frame t", ha="right", va="center", weight="bold")
    for part in [*slices, None]:
        offset, start, stop = part or (0, slices[-1].stop, CHANNELS)
        x = (start + stop) / 2
        top = {1: 3, 0: 2, -1: 1}[offset]
        axes.annotate(
            "", (x, 0.05), (x, top - 0.03), arrowprops={"arrowstyle": "->", "color": COLORS[offset], "lw": 1.5}
        )
        share = (stop - start) / CHANNELS
        axes.text(x, -0.75, f"{share:.0%} from {NAMES[offset]}", ha="center", va="top", color=COLORS[offset])
    axes.set(xlim=(-6.5, CHANNELS + 0.2), ylim=(-1.4, 3.8))
    axes.axis("off")
    return figure


def draw_reach(layers: int = 4, frames: int = 9) -> Figure:
    """Which frames the middle one depends on after each layer, for w = 1."""
    figure = Figure(figsize=(8, 3.4), layout="constrained")
    axes = figure.subplots()
    middle = frames // 2
    for layer in range(layers + 1):
        for frame in range(frames):
            inside = abs(frame - middle) <= layers - layer
            axes.add_patch(
                Rectangle((frame, layer), 0.9, 0.7, facecolor=COLORS[1] if inside else "#e6e6e6", edgecolor="none")
            )
            if layer and inside:
                for other in (frame - 1, frame, frame + 1):
                    axes.plot([frame + 0.45, other + 0.45], [layer, layer - 0.3], color="#333333", lw=0.8)
        name = "frames" if layer == 0 else f"after layer {layer}"
        axes.text(-0.3, layer + 0.35, name, ha="right", va="center")
    for frame in range(frames):
        label = "t" if frame == middle else f"t {'+' if frame > middle else '−'} {abs(frame - middle)}"
        axes.text(frame + 0.45, -0.2, label, ha="center", va="top")
    axes.set(xlim=(-2.6, frames), ylim=(-0.7, layers + 0.8))
    axes.axis("off")
    return figure


def main() -> None:
    for name, figure in (("mixing", draw_mixing()), ("reach", draw_reach())):
        figure.savefig(TARGET / f"{name}.png", dpi=130, facecolor="white", metadata={"Software": None})
        print(f"docs/images/{name}.png")


if __name__ == "__main__":
    main()
