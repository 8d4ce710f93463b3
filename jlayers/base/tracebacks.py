"""Frames of users, of jlayers and of JAX: which a traceback shows, and which called us."""

from __future__ import annotations

import os
import sys
import types

import jax

# The separator, or else a user's folder jlayers_models would count as ours.
_OWN = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
_JAX = os.path.dirname(os.path.abspath(jax.__file__)) + os.sep


def users_frames(trace: types.TracebackType | None) -> types.TracebackType | None:
    """The traceback without the frames of jlayers and of JAX."""
    frames = []
    while trace is not None:
        if not trace.tb_frame.f_code.co_filename.startswith((_OWN, _JAX)):
            frames.append(trace)
        trace = trace.tb_next
    users = None
    for frame in reversed(frames):
        users = types.TracebackType(users, frame.tb_frame, frame.tb_lasti, frame.tb_lineno)
    return users


def drop_jax_notes(error: BaseException) -> None:
    """Removes JAX's notes on removed frames: it adds one at each nested trace."""
    # In place: what else was noted stays, and an error without notes gets no empty list.
    notes = getattr(error, "__notes__", [])
    notes[:] = [note for note in notes if "JAX_TRACEBACK_FILTERING" not in note]


def raised_by_call(error: BaseException) -> bool:
    """Whether Python refused the arguments: then the traceback has no frame of the function."""
    return error.__traceback__ is not None and error.__traceback__.tb_next is None


def nearest_frame() -> tuple[types.FrameType, int]:
    """The nearest frame outside jlayers, and its level: 1 is the function that asks."""
    frame = sys._getframe(2)
    level = 2
    # A thread that jlayers has started has no frame outside.
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_OWN):
        frame, level = frame.f_back, level + 1
    return frame, level


def called_within(code: types.CodeType) -> bool:
    """Whether the function that asks was called within another call of ``code``, with frames of
    jlayers and of JAX alone between them.
    """
    frame: types.FrameType | None = sys._getframe(2)
    # It ends at a frame of the user: what a loss or a body calls is the user's call.
    while frame is not None and frame.f_code.co_filename.startswith((_OWN, _JAX)):
        if frame.f_code is code:
            return True
        frame = frame.f_back
    return False
