"""What the seconds of a row say: ratios to the best JAX library, ``lax``, torch and the floor."""

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

OURS, LAX, TORCH = "jlayers", "lax", "torch"
MODES = ("forward", "gradient", "step", "start")
# Below this a row counts as behind; what is nearer to one is noise.
BEHIND = 0.97


class Ratios(NamedTuple):
    """A row in one mode. A ratio is None where its other side is missing.

    Args:
      mode: "forward", "gradient" (forward and all gradients), "step" or "start".
      ours: seconds and the rest of jlayers' own timing, None where it has none.
      peer: the fastest of the JAX libraries; hand-written ``lax`` is none.
      theirs: its timing.
      to_peer, to_lax, to_torch: their time over ours; above one we are ahead.
      to_floor: our time over what the machine could do; one is the best there is.
    """

    mode: str
    ours: dict[str, Any] | None
    peer: str | None
    theirs: dict[str, Any] | None
    to_peer: float | None
    to_lax: float | None
    to_torch: float | None
    to_floor: float | None

    @property
    def same(self) -> bool:
        """Whether the peer's compiled program is ours, so that the difference is noise."""
        digests = [side.get("digest") for side in (self.ours, self.theirs) if side]
        return len(digests) == 2 and digests[0] is not None and digests[0] == digests[1]


def modes(result: dict[str, Any]) -> list[str]:
    """The modes that anybody was timed in."""
    everyone = result.get("frameworks", {}).values()
    return [mode for mode in MODES if any(mode in own for own in everyone)]


def ratios(result: dict[str, Any], mode: str) -> Ratios:
    """The ratios of a stored row."""
    timed = {name: own[mode] for name, own in result["frameworks"].items() if mode in own}
    ours = timed.get(OURS)
    # "jlayers loop" is jlayers too, "linen scan" a peer.
    peers = {name: own for name, own in timed.items() if not name.startswith((OURS, LAX, TORCH))}
    peer = min(peers, key=lambda name: peers[name]["median"], default=None)
    theirs = peers[peer] if peer is not None else None
    floor = result.get("floor", {}).get(mode)
    return Ratios(
        mode,
        ours,
        peer,
        theirs,
        _over(theirs, ours),
        _over(timed.get(LAX), ours),
        _over(timed.get(TORCH), ours),
        ours["median"] / floor if ours and floor else None,
    )


def _over(theirs: dict[str, Any] | None, ours: dict[str, Any] | None) -> float | None:
    return theirs["median"] / ours["median"] if theirs and ours else None


def geometric_mean(values: Iterable[float | None]) -> float | None:
    """Of those that are there; None where none is."""
    logs = [math.log(value) for value in values if value is not None]
    return math.exp(sum(logs) / len(logs)) if logs else None
