"""The picture of the speed-ups: a bar for each group and mode, a dot for each row."""

import math
import pathlib
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib.figure import Figure

from .ratios import by_mode, geometric_mean
from .tables import times

COLORS = {"forward": "#4477aa", "gradient": "#ee6677", "step": "#228833", "start": "#aa8833"}
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
    """(group, mode, speed-ups of its rows against whom), for those with any."""
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
        color = COLORS[mode]
        # The bars start at one: to the right jlayers is faster, to the left it is slower.
        axes.barh(at, math.log2(mean), color=color, alpha=0.85, height=0.75)
        dots = [math.log2(value) for value in values[which]]
        axes.plot(dots, [at] * len(dots), "o", color="#222222", markersize=2.5, alpha=0.6)
        axes.annotate(f" {times(mean)}", (max(*dots, 0.0), at), va="center", fontsize=7)
    axes.axvline(0, color="#222222", linewidth=0.8)
    axes.set_yticks(range(len(bars)), [f"{group}, {mode}" for group, mode, _ in bars], fontsize=8)
    axes.set_ylim(len(bars) - 0.4, -0.6)
    low, high = (round(limit) for limit in axes.get_xlim())
    low, high = min(low, -1), max(high + 1, 2)
    step = max(1, (high - low) // 8)
    ticks = [at for at in range(low, high + 1) if at % step == 0]
    axes.set_xlim(low - 0.2, high + 0.5)
    axes.set_xticks(ticks, [f"{2**at}x" if at >= 0 else f"1/{2**-at}x" for at in ticks], fontsize=8)
    axes.grid(axis="x", alpha=0.3)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
