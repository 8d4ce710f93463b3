"""What the loop says: the log, TensorBoard, the learning curve, the bar, early stopping."""

import builtins
import io
import json
import math
import os
import pathlib
import re
import subprocess
import sys
import textwrap

import pytest
import rich.console
from error_text import each, read

import jlayers as jl
from jlayers import training
from jlayers.records import progress as progress_module

NAN, INF = math.nan, math.inf


def record(step, **metrics):
    metrics = {name.replace("__", "/"): value for name, value in metrics.items()}
    return training.Record(step, step // 30, metrics or {"loss": 1 / step}, step / 7, 3.3)


def log_of(path, steps):
    log = training.json_lines(path)
    for step in steps:
        log(record(step))


# JSON lines


def test_a_line_is_one_json_object_and_gives_the_same_numbers(tmp_path):
    path = tmp_path / "deep" / "down" / "log.jsonl"
    records = [
        training.Record(1, 0, {"loss": 0.1 + 0.2, "eval/loss": 5e-324}, 1e22 / 3, 1 / 3),
        training.Record(2, 1, {"loss": NAN, "up": INF, "down": -INF}, 2.0, INF),
        training.Record(
            3, 1, {"Verlust/größe": -0.0, 'a "name"\n': 1.7976931348623157e308}, 3.0, 0.0
        ),
    ]
    log = training.json_lines(path)
    assert not path.parent.exists()
    for i, one in enumerate(records, 1):
        log(one)
        assert path.read_bytes().count(b"\n") == i  # with the operating system at once

    def strict(constant):
        raise AssertionError(constant)

    rows = [json.loads(line, parse_constant=strict) for line in path.read_text().splitlines()]
    assert list(rows[0]) == ["step", "epoch", "seconds", "steps_per_second", "loss", "eval/loss"]
    assert rows[1]["loss"] == "nan"
    assert (rows[1]["up"], rows[1]["down"], rows[1]["steps_per_second"]) == ("inf", "-inf", "inf")
    assert repr(training.read_json_lines(path)) == repr(records)
    assert repr(training.read_json_lines(str(path))) == repr(records)


def test_the_log_of_a_resumed_run_is_that_of_an_uninterrupted_one(tmp_path):
    whole, resumed = tmp_path / "whole.jsonl", tmp_path / "resumed.jsonl"
    log_of(whole, range(10, 100, 10))
    for died_after, half in [(50, b""), (70, b'{"step": 80, "ep'), (40, b'{"st\0\0\0\0')]:
        resumed.unlink(missing_ok=True)
        log_of(resumed, range(10, died_after + 1, 10))
        with resumed.open("ab") as file:
            file.write(half)
        assert len(training.read_json_lines(resumed)) == died_after // 10
        log_of(resumed, range(40, 100, 10))
        assert resumed.read_bytes() == whole.read_bytes()
    assert sorted(os.listdir(tmp_path)) == ["resumed.jsonl", "whole.jsonl"]


def test_a_run_from_the_beginning_starts_the_log_anew(tmp_path):
    path = tmp_path / "log.jsonl"
    log_of(path, [10, 20, 30])
    path.chmod(0o640)
    log_of(path, [5])
    assert [one.step for one in training.read_json_lines(path)] == [5]
    assert path.stat().st_mode & 0o777 == 0o640


def test_a_link_stays_a_link_and_a_chdir_changes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    log_of("log.jsonl", [10, 20])
    (tmp_path / "link").symlink_to(tmp_path / "log.jsonl")
    log = training.json_lines("link")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    log(record(20))
    assert (tmp_path / "link").is_symlink()
    assert [one.step for one in training.read_json_lines(tmp_path / "log.jsonl")] == [10, 20]
    assert os.listdir(".") == []


def test_a_last_line_that_only_lacks_its_end_is_kept(tmp_path):
    path = tmp_path / "log.jsonl"
    log_of(path, [10, 20])
    path.write_bytes(path.read_bytes()[:-1])
    assert len(training.read_json_lines(path)) == 2
    log_of(path, [30])
    assert [one.step for one in training.read_json_lines(path)] == [10, 20, 30]


def test_the_old_lines_go_at_once_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "log.jsonl"
    log_of(path, [10, 20, 30])
    before = path.read_bytes()

    def full(*names):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(jl.TrainingError, match="No space left"):
        log_of(path, [20])
    assert path.read_bytes() == before


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_a_full_disk_is_told():
    read(
        (
            lambda: log_of("/dev/full", [1]),
            "json_lines: the log /dev/full cannot be written",
            "OSError: No space left on device",
            "free space on the disk",
        )
    )


@pytest.mark.parametrize(
    "text",
    [
        "important",
        '{"step": 1}\n',
        "[1, 2]\n",
        '{"step": 1, "epoch": 0, "seconds": 1.0, "steps_per_second": 1.0, "loss": true}\n',
        '{"step": "1", "epoch": 0, "seconds": 1.0, "steps_per_second": 1.0}\n',
        '{"step": 1, "epoch": 0, "seconds": 1.0, "steps_per_second": 1.0, "loss": [1]}\n',
        '{"step": 1, "epoch": 0, "seconds": 1.0, "steps_per_second": 1.0}\n\n',
        '{"step": 1, "ep\n{"step": 1, "epoch": 0, "seconds": 1.0, "steps_per_second": 1.0}\n',
    ],
)
def test_a_file_of_another_kind_is_left_as_it_is(tmp_path, text):
    path = tmp_path / "mine.txt"
    path.write_text(text)
    for wrong, name in [
        (lambda: training.json_lines(path), "json_lines"),
        (lambda: training.read_json_lines(path), "read_json_lines"),
    ]:
        start = f"{name}: {path} is not a log of records"
        read((wrong, start, "expected: one JSON object", "line "))
    assert path.read_text() == text
    # Put there after the callback was made, too.
    path.unlink()
    log = training.json_lines(path)
    path.write_text(text)
    read((lambda: log(record(1)), f"json_lines: {path} is not a log of records", "left as it is"))
    assert path.read_text() == text


def test_errors_of_the_log(tmp_path):
    (tmp_path / "file").write_text("")
    inside = tmp_path / "file" / "log.jsonl"
    missing = tmp_path / "none.jsonl"
    read(
        (
            lambda: training.json_lines(inside),
            f"json_lines: the log {inside} cannot be read",
            "NotADirectoryError: Not a directory",
        )
    )
    read(
        (
            lambda: training.json_lines(tmp_path),
            f"json_lines: the log {tmp_path} cannot be read",
            "IsADirectoryError: Is a directory",
        )
    )
    read(
        (
            lambda: training.read_json_lines(missing),
            f"read_json_lines: the log {missing} cannot be read",
            "FileNotFoundError: No such file",
        )
    )
    read(
        (
            lambda: training.json_lines(missing)(record(1, loss=1.0, steps_per_second=2.0)),
            "json_lines: a metric is named 'steps_per_second', and so is a column of the log",
            "'step', 'epoch', 'seconds', 'steps_per_second'",
            "'loss', 'steps_per_second'",
        )
    )
    read(
        (
            lambda: training.json_lines(missing)(record(1, loss="low")),
            "json_lines: the metric 'loss' must be a number",
            "'low'",
        )
    )
    assert not missing.exists()


# TensorBoard


def scalars(folder):
    accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator"
    ).EventAccumulator(str(folder))
    accumulator.Reload()
    return {
        tag: [(event.step, event.value) for event in accumulator.Scalars(tag)]
        for tag in accumulator.Tags()["scalars"]
    }


def test_tensorboard_reads_what_was_written(tmp_path):
    pytest.importorskip("tensorboard")
    folder = tmp_path / "deep" / "events"
    log = training.tensorboard(folder)
    assert not folder.exists()
    log(record(10, loss=0.5))
    log(record(20, loss=NAN, eval__loss=0.25))
    log.close()
    found = scalars(folder)
    assert found.keys() == {"loss", "eval/loss", "steps_per_second", "epoch"}
    assert found["loss"][0] == (10, 0.5)
    assert math.isnan(found["loss"][1][1])
    assert found["eval/loss"] == [(20, 0.25)]
    assert found["steps_per_second"] == [(10, pytest.approx(3.3)), (20, pytest.approx(3.3))]


def test_tensorboard_forgets_what_a_resumed_run_does_again(tmp_path):
    pytest.importorskip("tensorboard")
    for steps, value in [((10, 20, 30), 1.0), ((20, 30, 40), 2.0)]:
        log = training.tensorboard(tmp_path)
        for step in steps:
            log(record(step, loss=value))
        log.close()
    assert scalars(tmp_path)["loss"] == [(10, 1.0), (20, 2.0), (30, 2.0), (40, 2.0)]


def test_tensorboard_shows_a_metric_of_the_users_rather_than_its_own(tmp_path):
    pytest.importorskip("tensorboard")
    log = training.tensorboard(tmp_path)
    log(record(10, epoch=0.25))
    log.close()
    assert scalars(tmp_path)["epoch"] == [(10, 0.25)]


def test_tensorboard_forgets_a_record_of_an_early_end(tmp_path):
    pytest.importorskip("tensorboard")
    before = [record(5, loss=1.0), record(7, loss=1.0)]
    for records, steps in (([], (5, 7)), (before[:1], (10, 15)), (before[:1], (10,))):
        log = training.tensorboard(tmp_path)
        log.on_start(7 if records else 0, records)
        for step in steps:
            log(record(step, loss=1.0))
        log.close()
    assert [step for step, _ in scalars(tmp_path)["loss"]] == [5, 10]


def test_tensorboard_is_complete_when_python_ends_and_when_it_is_forgotten(tmp_path):
    pytest.importorskip("tensorboard")
    code = f"""
        from jlayers import training
        log = training.tensorboard({str(tmp_path / "ended")!r}, flush_seconds=1000.0)
        for step in range(1, 4):
            log(training.Record(step, 0, {{"loss": 1.0 * step}}, 1.0, 1.0))
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True)
    assert scalars(tmp_path / "ended")["loss"] == [(1, 1.0), (2, 2.0), (3, 3.0)]
    log = training.tensorboard(tmp_path / "forgotten", flush_seconds=1000.0)
    log(record(1, loss=1.0))
    log(record(2, loss=2.0))
    del log
    assert scalars(tmp_path / "forgotten")["loss"] == [(1, 1.0), (2, 2.0)]


def test_a_closed_tensorboard_goes_on_in_another_file(tmp_path):
    pytest.importorskip("tensorboard")
    log = training.tensorboard(tmp_path)
    log.close()
    for step in (1, 2):
        log(record(step, loss=1.0))
        log.close()
        log.close()
    assert scalars(tmp_path)["loss"] == [(1, 1.0), (2, 1.0)]
    # TensorBoard reads them in this order, whatever its count of files has come to.
    assert len({name.split(".")[3] for name in os.listdir(tmp_path)}) == 2


def test_errors_of_tensorboard(tmp_path, monkeypatch):
    pytest.importorskip("tensorboard")
    (tmp_path / "file").write_text("")
    folder = tmp_path / "file"
    read(
        (
            lambda: training.tensorboard(folder)(record(1)),
            f"tensorboard: event files in {folder} cannot be written",
            "FileExistsError: File exists",
            "another folder",
        )
    )


@pytest.fixture
def without(monkeypatch):
    """Hides a package that is installed."""
    hidden = []
    real = builtins.__import__

    def importing(name, *args, **kwargs):
        if name.split(".")[0] in hidden:
            raise ImportError(name)
        return real(name, *args, **kwargs)

    def hide(name):
        hidden.append(name)
        for module in [module for module in sys.modules if module.split(".")[0] == name]:
            monkeypatch.setitem(sys.modules, module, None)
        monkeypatch.setitem(sys.modules, name, None)
        monkeypatch.setattr(builtins, "__import__", importing)

    return hide


@pytest.mark.parametrize("package", ["tensorboard", "matplotlib"])
def test_packages_that_are_not_installed(package, without, tmp_path):
    without(package)
    call = {
        "tensorboard": lambda: training.tensorboard(tmp_path),
        "matplotlib": lambda: training.learning_curve([record(1)], tmp_path / "curve.png"),
    }[package]
    name = {"matplotlib": "learning_curve"}.get(package, package)
    read((call, f"{name}: the package {package} is not installed", f"pip install {package}"))


# The learning curve


@pytest.fixture
def drawn(monkeypatch, tmp_path):
    """The axes of the picture that was drawn last."""
    figure = pytest.importorskip("matplotlib.figure")
    kept = []
    save = figure.Figure.savefig
    monkeypatch.setattr(
        figure.Figure, "savefig", lambda self, *a, **k: (kept.append(self), save(self, *a, **k))
    )

    def draw(records, **options):
        path = tmp_path / "deep" / "curve.png"
        training.learning_curve(records, path, **options)
        assert path.read_bytes().startswith(b"\x89PNG\r\n")
        return kept[-1].axes

    return draw


def test_train_and_eval_share_their_axes(drawn, tmp_path):
    records = [
        record(i, loss=4.0**-i, accuracy=0.5, **({"eval__loss": 2.0 * 4.0**-i} if i % 2 else {}))
        for i in range(1, 10)
    ]
    loss, accuracy = drawn(records)
    assert [loss.get_ylabel(), accuracy.get_ylabel()] == ["loss", "accuracy"]
    assert accuracy.get_xlabel() == "steps taken"
    assert [line.get_label() for line in loss.lines] == ["train", "eval"]
    assert [*loss.lines[1].get_xdata()] == [1, 3, 5, 7, 9]
    assert [*loss.lines[1].get_ydata()] == [2.0 * 4.0**-i for i in (1, 3, 5, 7, 9)]
    assert [loss.get_yscale(), accuracy.get_yscale()] == ["log", "linear"]
    assert [axis.get_ylabel() for axis in drawn(records, metrics=["accuracy"])] == ["accuracy"]
    log = training.json_lines(tmp_path / "log.jsonl")
    for one in records:
        log(one)
    (again, _) = drawn(tmp_path / "log.jsonl")
    assert [*again.lines[0].get_ydata()] == [4.0**-i for i in range(1, 10)]


def test_what_is_not_finite_is_marked_and_leaves_a_gap(drawn):
    values = [1.0, NAN, 0.5, INF, 0.25]
    (axis,) = drawn([record(i, **{"a$b$c": value}) for i, value in enumerate(values, 1)])
    line, crosses = axis.lines
    assert [math.isfinite(value) for value in line.get_ydata()] == [True, False, True, False, True]
    assert [*crosses.get_xdata()] == [2, 4]
    assert crosses.get_label() == "train, not finite"
    assert axis.yaxis.label.get_text() == "a$b$c"
    assert not axis.yaxis.label.get_parse_math()
    (axis,) = drawn([record(1, loss=NAN)])
    assert [line.get_label() for line in axis.lines] == ["train, not finite"]


@pytest.mark.parametrize(
    ("values", "scale"),
    [
        ([2.3, 0.5, 0.1, 0.05, 0.04, 0.03], "log"),
        ([0.02, 0.6, 0.8, 0.9, 0.95], "linear"),
        ([0.1, 0.6, 0.8, 0.9, 0.95, 0.98], "linear"),
        ([10.0, 9.1, 9.05, 9.01, 9.0], "linear"),
        ([2.3, 0.5, 0.1, 0.0, 0.0, 0.0], "linear"),
        ([2.3, 0.1, -0.1, -0.1], "linear"),
        ([0.001, 0.001], "linear"),
    ],
)
def test_the_axis_is_logarithmic_where_it_helps(drawn, values, scale):
    (axis,) = drawn([record(i, loss=value) for i, value in enumerate(values, 1)])
    assert axis.get_yscale() == scale


CURVES = [
    (
        lambda: training.learning_curve([], "curve.png"),
        "learning_curve: there is no record with metrics to draw",
    ),
    (
        lambda: training.learning_curve([{"loss": 1.0}], "curve.png"),
        "learning_curve: records holds something else",
        "Records, or the path",
        "{loss: 1.0}",
    ),
    (
        lambda: training.learning_curve([record(1)], "curve.png", metrics=["eval/loss"]),
        "learning_curve: no record holds the metric 'eval/loss'",
        "some of 'loss'",
        "hint:     'loss'",
    ),
    (
        lambda: training.learning_curve([record(1)], f"{__file__}/deep/curve.png"),
        "learning_curve: the picture */curve.png cannot be written",
        "NotADirectoryError: Not a directory",
    ),
]


# Early stopping


def evaluations(*losses):
    """Records of training, and of an evaluation at every second one."""
    records = []
    for i, loss in enumerate(losses, 1):
        records += [record(20 * i - 10), record(20 * i, loss=0.0, eval__loss=loss)]
    return records


@pytest.mark.parametrize(
    ("losses", "options", "stops"),
    [
        ([1.0, 0.9, 0.8, 0.7], {}, None),
        ([1.0, 1.0, 1.0], {}, 3),
        ([1.0, 2.0, 0.5, 2.0, 0.5], {}, 5),
        ([1.0, NAN, NAN], {}, 3),
        ([NAN, NAN, 1.0], {}, 2),
        ([NAN, 1.0, 0.5], {}, None),
        ([INF, INF, INF], {}, 3),
        ([INF, 1.0, NAN], {}, None),
        ([1.0, 0.95, 0.91, 0.5], {"min_delta": 0.1}, 3),
        ([1.0, 0.95, 0.85, 0.5], {"min_delta": 0.1}, None),
        ([0.1, 0.2, 0.2, 0.2], {"mode": "max"}, 4),
        ([0.1, 0.2, 0.3, 0.4], {"mode": "max"}, None),
        ([0.1, 0.15, 0.19], {"mode": "max", "min_delta": 0.1}, 3),
    ],
)
def test_early_stopping_counts_evaluations(losses, options, stops):
    stopping = training.EarlyStopping("eval/loss", patience=2, **options)
    records = evaluations(*losses)
    said = [i for i in range(len(records) + 1) if stopping.should_stop(records[:i])]
    assert said[:1] == ([] if stops is None else [2 * stops])
    # It holds nothing: asked again, and another of the same, say the same.
    again = training.EarlyStopping("eval/loss", patience=2, **options)
    assert said == [i for i in range(len(records) + 1) if again.should_stop(iter(records[:i]))]
    assert again == stopping


STOPPING = [
    (
        lambda: training.EarlyStopping("loss", patience=0),
        "EarlyStopping: patience must be a positive int, got 0",
    ),
    (
        lambda: training.EarlyStopping("loss", patience=1, min_delta=-1),
        "EarlyStopping: min_delta must be a number of at least 0, got -1",
    ),
    (
        lambda: training.EarlyStopping("loss", patience=1, mode="least"),
        "EarlyStopping: mode must be 'min' or 'max', got 'least'",
    ),
    (
        lambda: training.EarlyStopping(1, patience=1),
        "EarlyStopping: metric must be a metric's name, got 1",
    ),
    (
        lambda: training.EarlyStopping("eval/lost", patience=1).should_stop(evaluations(1.0)),
        "should_stop: EarlyStopping waits for 'eval/lost', which is not among the metrics",
        "one of 'eval/loss', 'loss'",
        "got:      'eval/lost'",
    ),
    (
        lambda: training.EarlyStopping("accuracy", patience=1).should_stop(
            [record(1, loss=1.0, eval__accuracy=0.5)]
        ),
        "should_stop: EarlyStopping waits for 'accuracy', which is not among the metrics",
        "EarlyStopping('eval/accuracy', ...)",
    ),
]


def test_an_evaluation_that_is_still_to_come_is_waited_for():
    stopping = training.EarlyStopping("eval/loss", patience=1)
    assert not stopping.should_stop([])
    assert not stopping.should_stop([record(1), record(2)])


# The bar


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def now(monkeypatch):
    """A clock that stands still until it is moved."""
    time = [100.0]
    monkeypatch.setattr(progress_module, "monotonic", lambda: time[0])
    monkeypatch.setenv("TERM", "xterm")
    return time


def taken(now, progress, steps, seconds, size=1):
    for step in steps:
        now[0] += seconds
        progress.at(step)


def console(terminal, width=100):
    return rich.console.Console(
        file=io.StringIO(), force_terminal=terminal, width=width, color_system=None
    )


def test_a_log_file_gets_plain_lines_now_and_then(now):
    out = console(terminal=False)
    with training.Progress(400, console=out, every=10) as progress:
        taken(now, progress, range(1, 101), 0.25)
        progress.metrics({"loss": 0.123456, "eval/loss": NAN})
        taken(now, progress, range(101, 401), 0.25)
    lines = out.file.getvalue().splitlines()
    assert lines[0] == "training  40/400  10%  4.0 steps/s  0:00:10 < 0:01:30"
    assert lines[2].startswith(
        "training  120/400  30%  4.0 steps/s  0:00:30 < 0:01:10  loss 0.1235"
    )
    assert lines[-1] == "training  400/400  100%  4.0 steps/s  0:01:40  loss 0.1235  eval/loss nan"
    assert len(lines) == 11
    assert not re.search(r"[^\x20-\x7e\n]", out.file.getvalue())


def test_a_terminal_gets_a_bar_that_is_drawn_twice_a_second(now):
    out = console(terminal=True)
    with training.Progress(1000, console=out, description="evaluating") as progress:
        taken(now, progress, range(1, 501), 0.01)
        assert 10 <= out.file.getvalue().count("evaluating") <= 12
        progress.metrics({"loss": 0.5})
        taken(now, progress, [501], 1.0)
    text = out.file.getvalue()
    row, metrics = text[text.rindex("evaluating") :].splitlines()[:2]
    assert re.fullmatch(
        r"evaluating  501/1000  ━{15} +50%  \d+ steps/s  0:00:06 < 0:00:\d\d *", row
    )
    assert metrics.startswith("loss 0.5")
    assert text.endswith("\x1b[?25h")  # the cursor is back


@pytest.mark.parametrize("terminal", [True, False])
def test_the_end_need_not_be_known(now, terminal):
    out = console(terminal)
    with training.Progress(console=out, every=1) as progress:
        taken(now, progress, range(70, 90, 5), 20.0)
    text = out.file.getvalue()
    assert "training  step 85  4.0 s/step  0:01:20\n" in text
    assert "%" not in text


def test_narrow_terminals_and_many_metrics(now):
    for width in (20, 40, 70, 200):
        out = console(True, width)
        with training.Progress(10**9, console=out) as progress:
            progress.metrics({f"metric_{i}": 1e-30 * i for i in range(30)})
            taken(now, progress, range(1, 5), 1.0)
        lines = re.sub(r"\x1b\[[0-9?]*[a-zA-Z]", "", out.file.getvalue()).splitlines()
        assert max(map(len, lines)) <= width


def test_what_is_printed_meanwhile_stands_above_the_bar(now, monkeypatch):
    out = Terminal()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setenv("COLUMNS", "90")
    with training.Progress(10) as progress:
        taken(now, progress, [1], 1.0)
        print("a word of a callback")  # noqa: T201
        taken(now, progress, [2], 1.0)
    assert sys.stdout is out
    text = out.getvalue()
    # The line of the bar is erased before the word is printed, and drawn again after it.
    assert re.search(r"\x1b\[2Ka word of a callback *\n *training  1/10", text)


def test_a_pipe_is_no_terminal_whatever_the_environment_says(now, monkeypatch):
    for name, value, out in [("FORCE_COLOR", "1", io.StringIO()), ("TERM", "dumb", Terminal())]:
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", out)
            patch.setenv(name, value)
            with training.Progress(2) as progress:
                taken(now, progress, [1, 2], 20.0)
        assert out.getvalue().splitlines() == [
            "training  1/2  50%  0:00:20",
            "training  2/2  100%  20.0 s/step  0:00:40",
            "training  2/2  100%  20.0 s/step  0:00:40",
        ]


@pytest.mark.parametrize("terminal", [True, False])
def test_a_terminal_that_goes_away_ends_nothing(now, terminal):
    class Gone(io.StringIO):
        gone = False

        def write(self, text):
            if self.gone:
                raise OSError(5, "Input/output error")
            return super().write(text)

    file = Gone()
    out = rich.console.Console(file=file, force_terminal=terminal, width=90)
    with training.Progress(10, console=out, every=1) as progress:
        taken(now, progress, [1], 2.0)
        file.gone = True
        taken(now, progress, range(2, 10), 2.0)
    assert "training" in file.getvalue()


def test_an_error_of_the_loop_leaves_the_line_and_goes_on_up(now):
    out = console(True)

    def interrupted():
        with training.Progress(10, console=out) as progress:
            taken(now, progress, [3], 1.0)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert out.file.getvalue().rstrip().endswith("\x1b[?25h")
    assert "training  3/10" in out.file.getvalue()


BARS = [
    (lambda: training.Progress(-1), "Progress: total must be an int of at least 0, got -1"),
    (
        lambda: training.Progress(every="10"),
        "Progress: every must be a number of at least 0, got '10'",
    ),
]


@each(CURVES, STOPPING, BARS)
def test_errors(case):
    read(case)


def test_no_package_is_imported_before_it_is_asked_for():
    code = (
        "import sys; from jlayers import training; "
        "print([name for name in ('tensorboard', 'matplotlib') if name in sys.modules])"
    )
    root = pathlib.Path(__file__).parent.parent.parent
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=root
    )
    assert done.stdout == "[]\n"
