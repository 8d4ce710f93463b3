#!/usr/bin/env bash
# TensorBoard reads the eleventh event file of a second before the third.
#
# One would guess: event files that one process writes to a folder, each closed before the next is
# opened, are read in the order in which they were written.
# Versions: tensorboard 2.21.0, Python 3.11.
# Seen: files are read in the order of their names, which hold the second and end with the writer's
# count of files as text. Twelve files of one second, with steps 0 to 11, give the steps
# 0, 1, 10, 11, 2, ..., 9.
# Exits 0 while the behaviour is as described.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q tensorboard==2.21.0 setuptools==80.9.0
"$folder/venv/bin/python" - "$folder" <<'PYTHON'
import os
import sys
import time

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter

folder = os.path.join(sys.argv[1], "events")
# Writers are counted from 0 in each process; all twelve are opened at the start of a second.
time.sleep(1 - time.time() % 1)
for step in range(12):
    writer = EventFileWriter(folder)
    value = Summary.Value(tag="loss", simple_value=1.0)
    writer.add_event(Event(step=step, wall_time=time.time(), summary=Summary(value=[value])))
    writer.close()
seconds = {name.split(".")[3] for name in os.listdir(folder)}
assert len(seconds) == 1, "the files are of two seconds: run it again on an idle machine"
reader = EventAccumulator(folder)
reader.Reload()
steps = [event.step for event in reader.Scalars("loss")]
print("written: ", list(range(12)))
print("read:    ", steps)
assert steps == [0, 1, 10, 11, 2, 3, 4, 5, 6, 7, 8, 9], "the behaviour has changed"
PYTHON
