"""``write``: arrays into a file that another library loads."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ..base.errors import InteropError, public_api
from ..checkpoint.atomic import atomic_directory, atomic_file, new_token, writing_name
from ..checkpoint.group import Group
from .formats import FORMATS, Format
from .formats.base import Writer


@public_api
def write(
    path: str | os.PathLike[str], arrays: Mapping[str, Any], *, format: str | None = None
) -> Path:
    """Writes arrays into a file that another library loads.

    The names and layouts are written as they are: ``export_state_dict`` makes those of another
    library. A file appears complete or not at all, and an existing one is replaced only then.

    Args:
      path: of the file; its suffix says which format it is.
      arrays: by name, of NumPy or JAX. Groups are joined by ``/`` where a format has them.
      format: a name in ``interop.FORMATS`` with a writer; None to go by the suffix.

    Returns:
      The path.

    Raises:
      InteropError: for a suffix or format that is not written, and for a name or dtype that the
        format does not have; nothing is written then.
      OSError: if the system cannot write the file.

    >>> import pathlib, tempfile, jlayers as jl, numpy as np
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "model.safetensors"
    >>> arrays = jl.interop.read(jl.interop.write(path, {"0.weight": np.ones((8, 3))}))
    >>> arrays["0.weight"].shape
    (8, 3)
    """
    path = Path(path)
    known, writer = _format(path, format)
    try:
        checked = {name: _checked(name, array, known, writer) for name, array in arrays.items()}
        group = Group()
        if writer.sharded and group.count > 1:
            _write_together(path, writer, checked, group)
        else:
            with (atomic_directory if writer.folder else atomic_file)(path) as temporary:
                writer.write(temporary, checked)
    except InteropError as error:
        error.problem = f"{path} cannot be written: {error.problem}"
        raise
    return path


def _write_together(path: Path, writer: Writer, arrays: Mapping[str, Any], group: Group) -> None:
    """All processes fill one folder, and the first one gives it its name."""
    where = f"writing {path}"
    with contextlib.ExitStack() as opened:

        def make() -> str:
            token = new_token()
            opened.enter_context(atomic_directory(path, token))
            return token

        temporary = writing_name(path, group.decided(where, make))
        group.together(where, lambda: writer.write(temporary, arrays))
        group.together(where, opened.close)


def _format(path: Path, format: str | None) -> tuple[Format, Writer]:
    written = {name: known.writer for name, known in FORMATS.items() if known.writer is not None}
    if format is None:
        for name, writer in written.items():
            if path.name.endswith(writer.suffixes):
                return FORMATS[name], writer
        suffixes = ", ".join(s for writer in written.values() for s in writer.suffixes)
        raise InteropError(
            f"{path} has a suffix that is not written",
            expected=suffixes,
            got=repr("".join(path.suffixes)),
            hint="interop.write(path, arrays, format=...)",
        )
    if format not in written:
        raise InteropError(f"the format {format!r} is not written", expected=", ".join(written))
    return FORMATS[format], written[format]


def _checked(name: object, array: Any, known: Format, writer: Writer) -> Any:
    """The array as a writer takes it."""
    if not isinstance(name, str) or "\0" in name or not _is_unicode(name):
        raise InteropError("the names of arrays must be text", got=repr(name))
    if not writer.sharded:
        _check_addressable(name, array)
    try:
        if isinstance(array, Mapping):
            raise InteropError(
                f"{name!r} must be an array",
                got="a dict",
                hint="jl.interop.export_state_dict(model, x, params, state), or jl.flatten(params)",
            )
        found = array
        if not (writer.sharded and isinstance(array, jax.Array)):
            found = np.asarray(array)
            found = np.asarray(found, found.dtype.newbyteorder("="), order="C")
    except (TypeError, ValueError) as error:
        raise InteropError(f"{name!r} must be an array of numbers", got=str(error)) from None
    if found.dtype not in writer.dtypes:
        raise InteropError(
            f"{name!r} has a dtype that {known.name} does not have",
            expected=", ".join(str(dtype) for dtype in writer.dtypes),
            got=str(found.dtype),
        )
    return found


def _check_addressable(name: str, array: Any) -> None:
    if isinstance(array, jax.Array) and not (
        array.is_fully_addressable or array.is_fully_replicated
    ):
        raise InteropError(
            f"{name!r} is sharded over several processes",
            hint='format="orbax", or jlayers.checkpoint',
        )


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
