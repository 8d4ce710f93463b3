"""Results on disk: one JSON file for each group, in a folder for each device."""

import json
import os
import pathlib
from collections.abc import Iterable
from typing import Any

from .device import slug_of

FOLDER = pathlib.Path(__file__).parent / "results"
DIGITS = 5


def read(folder: pathlib.Path, device: dict[str, Any], group: str) -> dict[str, Any]:
    """A group's file on a device; an empty one where nothing has been measured.

    Returns:
      ``group``, ``device``, ``runs`` (by start time: the environment) and ``rows`` (by name: the
      results, each with the ``run`` that it comes from).
    """
    path = folder / device["slug"] / f"{group}.json"
    if path.exists():
        return {**json.loads(path.read_text()), "device": device}
    return {"group": group, "device": device, "runs": {}, "rows": {}}


def placed(folder: pathlib.Path, device: dict[str, Any]) -> dict[str, Any]:
    """The device with the slug of its folder.

    A folder belongs to the first model of processor that is stored in it with its numbers. Another
    model under the same name has a folder of its own, with its numbers in the slug.
    """
    files = sorted((folder / device["slug"]).glob("*.json"))
    found = {json.loads(path.read_text())["device"].get("model") for path in files}
    if found - {None, "", device["model"]} and device["model"]:
        return {**device, "slug": f"{device['slug']}-{slug_of(device['model'])}"}
    return device


def write(folder: pathlib.Path, stored: dict[str, Any], order: Iterable[str]) -> pathlib.Path:
    """Writes a group's file atomically: an interrupted run leaves the old one intact.

    Args:
      stored: as from ``read``.
      order: the names of the rows; results under other names are dropped. An empty one keeps all
        as they are.
    """
    names = [name for name in order if name in stored["rows"]] or list(stored["rows"])
    rows = {name: stored["rows"][name] for name in names}
    used = {row["run"] for row in rows.values()}
    runs = {stamp: run for stamp, run in stored["runs"].items() if stamp in used}
    path = folder / stored["device"]["slug"] / f"{stored['group']}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".part")
    content = _rounded({**stored, "runs": runs, "rows": rows})
    unfinished.write_text(json.dumps(content, indent=1) + "\n")
    os.replace(unfinished, path)
    return path


def earlier(stored: dict[str, Any], name: str, what: Any, conditions: Any) -> dict[str, Any]:
    """The stored rows of that name that were measured on the same, under the same conditions."""

    def same(row: dict[str, Any]) -> bool:
        measured = (row["from"], row["what"], stored["runs"][row["run"]])
        return measured == (name, what, conditions)

    return {own: row for own, row in stored["rows"].items() if same(row)}


def devices(folder: pathlib.Path) -> dict[str, list[dict[str, Any]]]:
    """All stored groups by device, processors first."""
    found: dict[str, list[dict[str, Any]]] = {}
    for path in sorted(folder.glob("*/*.json")):
        found.setdefault(path.parent.name, []).append(json.loads(path.read_text()))
    return dict(sorted(found.items(), key=lambda item: (not item[0].startswith("cpu"), item[0])))


def as_stored(value: Any) -> Any:
    """A value as it comes back from a file."""
    return json.loads(json.dumps(_rounded(value)))


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(name): _rounded(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(entry) for entry in value]
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value
