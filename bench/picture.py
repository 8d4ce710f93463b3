"""The picture of the speed-ups: a bar for each group and mode, a dot for each row."""

import pathlib
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib.figure import Figure

from .ratios import by_mode, geometric_mean
from .tables import times

COLORS = {"forward": "#4477aa", "gradient": "#ee6677", "step": "#228833", "start": "#aa8833"}
COLORS |= {"trace": "#66ccee", "lower": "#bbbbbb", "compile": "#aa3377"}
AGAINST = {"to_peer": "the best JAX peer", "to_torch": "torch"}


def draw(devices: dict[str, dict[str, dict[str, Any]]], path: pathlib.Path) -> None:
    """Writes a PNG: a row of panels for each device, one against the peers and one against torch.

    Args:
      devices: results by title of device, group and row.
    """
    timed = {title: _bars(groups) for title, groups in devices.items()}
    timed = {title: bars for title, bars in timed.items() if bars}
    heights = [0.6 + 0.24 * len(bars) for bars in timed.values()]
    figure = Figure(figsize=(11, 0.9 + sum(heights) if heights else 2), layout="constrained")
    if not timed:
        figure.text(0.5, 0.5, "nothing measured yet", ha="center")
    else:
        panels = figure.subplots(
            len(timed), 2, squeeze=False, gridspec_kw={"height_ratios": heights}
        )
        for line, (title, bars) in zip(panels, timed.items(), strict=True):
            for axes, (which, whom) in zip(line, AGAINST.items(), strict=True):
                _panel(axes, bars, which)
                axes.set_title(f"speed-up over {whom}\n{title}", fontsize=9)
            line[1].set_yticklabels([])
    figure.savefig(path, dpi=110, metadata={"Software": None})


def _bars(groups: dict[str, dict[str, Any]]) -> list[tuple[str, str, dict[str, list[float]]]]:
    """(group, mode, speed-ups of its rows by opponent), for those that have any."""
    bars = []
    for group, rows in groups.items():
        for mode, found in by_mode(rows.values()).items():
            values = {
                which: [value for r in found if (value := getattr(r, which)) is not None]
                for which in AGAINST
            }
            if any(values.values()):
                bars.append((group, mode, values))
    return bars


def _panel(axes: Any, bars: list[tuple[str, str, dict[str, list[float]]]], which: str) -> None:
    for at, (_, mode, values) in enumerate(bars):
        mean = geometric_mean(values[which])
        if mean is None:
            continue
        # The bars start at one: to the right jlayers is faster, to the left it is slower.
        axes.barh(at, mean - 1, left=1, color=COLORS[mode], alpha=0.85, height=0.75)
        dots = {"color": "#222222", "markersize": 2.5, "alpha": 0.6}
        axes.plot(values[which], [at] * len(values[which]), "o", **dots)
        axes.annotate(f" {times(mean)}", (max(*values[which], 1.0), at), va="center", fontsize=7)
    axes.axvline(1, color="#222222", linewidth=0.8)
    axes.set_yticks(range(len(bars)), [f"{group}, {mode}" for group, mode, _ in bars], fontsize=8)
    axes.set_ylim(len(bars) - 0.4, -0.6)
    axes.set_xscale("log", base=2)
    low, high = axes.get_xlim()
    axes.set_xlim(min(low, 0.5), 1.5 * max(high, 2))
    axes.xaxis.set_major_formatter(lambda x, _: f"{x:g}x" if x >= 1 else f"1/{1 / x:g}x")
    axes.tick_params(axis="x", labelsize=8)
    axes.grid(axis="x", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
