"""A command that is told to stop in its first seconds, as it is imported most of all, ends without a traceback."""

import signal

import pytest
from kills import PLAN, SWEEP, kill
from tiny_sweep import write_tiny

from qprune import stopping


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [SWEEP, PLAN], ids=["sweep", "plan"])
@pytest.mark.parametrize("seconds", [0.4, 1.5, 4.0])
def test_sigterm_at_any_moment(tmp_path, arguments, seconds):
    """Many more moments: python tests/helpers/kills.py."""
    write_tiny(tmp_path)
    ended = kill(arguments, signal.SIGTERM, seconds, True, tmp_path)
    assert ended.is_clean and ended.code in (-signal.SIGTERM, 128 + signal.SIGTERM), ended


def test_within_an_import_the_process_ends_and_elsewhere_it_is_interrupted(tmp_path, monkeypatch):
    """A library that catches whatever is raised as it is imported can't swallow the signal."""
    ends = []
    monkeypatch.setattr(stopping.os, "_exit", lambda code: ends.append(code))
    monkeypatch.setattr(stopping, "came", [])
    (tmp_path / "swallows.py").write_text(
        "import signal\ntry:\n    signal.raise_signal(signal.SIGTERM)\nexcept BaseException as error:\n    caught = error\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    before = [signal.getsignal(each) for each in stopping.SIGNALS]
    try:
        stopping.heed("stopped")
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
        assert ends == [] and stopping.exit_code() == 143
        __import__("swallows")  # os._exit is replaced here, so that it goes on
        assert ends == [143]
    finally:
        for each, handler in zip(stopping.SIGNALS, before, strict=True):
            signal.signal(each, handler)
