"""Compiles as a process on a TPU would, and ends the run with a table of what was compiled."""

import jax
import pytest

from .programs import Program


@pytest.fixture(autouse=True)
def as_on_a_tpu(monkeypatch):
    """`core.attention` asks for the backend of its process, which is a CPU here."""
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")


@pytest.fixture
def report(record_property):
    """Adds a program to the table."""

    def add(program):
        traffic = {kind: tuple(sent) for kind, sent in program.traffic.items()}
        record_property("program", tuple(program._replace(traffic=traffic)))

    return add


def pytest_terminal_summary(terminalreporter):
    passed, failed, errors, expected = map(
        terminalreporter.getreports, ("passed", "failed", "error", "xfailed")
    )
    # Several processes finish in any order.
    programs = sorted(
        (report.nodeid.split("::")[0], *value)
        for report in passed + failed
        if report.when == "call"
        for name, value in report.user_properties
        if name == "program"
    )
    if not programs:
        return
    terminalreporter.section("compiled for TPU; bytes are those of a chip")
    titles = ("program", "chips", "arguments", "outputs", "temporaries", "sent in a call")
    _write(terminalreporter, [titles, *(_row(Program(*values)) for _, *values in programs)])
    terminalreporter.section("not compiled")
    for report in expected:
        terminalreporter.write_line(f"{report.nodeid}: {report.wasxfail}, as expected")
    for report in failed + errors:
        reason = getattr(report.longrepr, "reprcrash", None)
        text = reason.message if reason else str(report.longrepr)
        terminalreporter.write_line(f"{report.nodeid}: {text.splitlines()[0]}")


def _row(program):
    sent = (f"{count} {kind}, {_bytes(size)}" for kind, (count, size) in program.traffic.items())
    sizes = map(_bytes, (program.arguments, program.outputs, program.temporaries))
    return (program.name, str(program.chips), *sizes, "; ".join(sent) or "nothing")


def _write(reporter, rows):
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (
            cell.ljust(width) if i in (0, len(row) - 1) else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        reporter.write_line("  ".join(cells).rstrip())


def _bytes(size):
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size} B"
