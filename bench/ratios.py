"""The ratios of a row: to the best JAX library, ``lax``, torch and the floor."""

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

OURS, LAX, TORCH = "jlayers", "lax", "torch"
MODES = ("forward", "gradient", "step", "start", "trace", "lower", "compile")
# Below this a row counts as behind; nearer to one it is noise.
BEHIND = 0.97


class Ratios(NamedTuple):
    """A row in one mode. A ratio is None where its other side is missing.

    Args:
      mode: one of ``MODES``; "gradient" is forward and all gradients.
      ours: jlayers' own timing, None where it has none.
      peer: the fastest of the JAX libraries; hand-written ``lax`` does not count.
      theirs: its timing.
      to_peer, to_lax, to_torch: their time over ours; above one jlayers is faster.
      to_floor: jlayers' time over the floor; one is the best possible.
      floor: seconds that the bytes or the operations need.
    """

    mode: str
    ours: dict[str, Any] | None
    peer: str | None
    theirs: dict[str, Any] | None
    to_peer: float | None
    to_lax: float | None
    to_torch: float | None
    to_floor: float | None
    floor: float | None = None

    @property
    def behind(self) -> bool:
        return self.to_peer is not None and self.to_peer < BEHIND

    @property
    def same(self) -> bool:
        """Whether both compiled programs are the same, so that the difference is noise."""
        digests = [side.get("digest") for side in (self.ours, self.theirs) if side]
        return len(digests) == 2 and digests[0] is not None and digests[0] == digests[1]


def modes(result: dict[str, Any]) -> list[str]:
    """The modes that any framework was timed in."""
    frameworks = result.get("frameworks", {}).values()
    return [mode for mode in MODES if any(mode in own for own in frameworks)]


def ratios(result: dict[str, Any], mode: str) -> Ratios:
    """The ratios of a stored row."""
    timed = {name: own[mode] for name, own in result["frameworks"].items() if mode in own}
    ours = timed.get(OURS)
    # "jlayers loop" is also jlayers, "linen scan" is a peer.
    peers = {name: own for name, own in timed.items() if not name.startswith((OURS, LAX, TORCH))}
    peer = min(peers, key=lambda name: peers[name]["median"], default=None)
    theirs = peers[peer] if peer is not None else None
    floor = result.get("floor", {}).get(mode)
    to_floor = ours["median"] / floor if ours and floor else None
    others = (theirs, timed.get(LAX), timed.get(TORCH))
    compared = [other["median"] / ours["median"] if other and ours else None for other in others]
    return Ratios(mode, ours, peer, theirs, *compared, to_floor, floor)


def by_mode(rows: Iterable[dict[str, Any]]) -> dict[str, list[Ratios]]:
    """The ratios of all rows in each of the modes that any of them has."""
    found: dict[str, list[Ratios]] = {}
    for row in rows:
        for mode in modes(row):
            found.setdefault(mode, []).append(ratios(row, mode))
    return found


def geometric_mean(values: Iterable[float | None]) -> float | None:
    """The mean of the values that are not None; None where there are none."""
    logs = [math.log(value) for value in values if value is not None]
    return math.exp(sum(logs) / len(logs)) if logs else None
