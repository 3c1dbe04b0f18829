"""What long runs have in common."""

import signal
import threading

import pytest

from contracts.errors import ConfigError
from contracts.runs import claim, stop_on_signal


def test_a_folder_is_gone_on_with_only_by_the_same_values(tmp_path):
    claim(tmp_path, {"seed": 1, "data": "a"})
    claim(tmp_path, {"data": "a", "seed": 1})
    with pytest.raises(ConfigError, match="holds a run with other settings or data"):
        claim(tmp_path, {"seed": 2, "data": "a"})


def test_the_first_signal_asks_and_the_second_one_interrupts():
    before = signal.getsignal(signal.SIGINT)
    with stop_on_signal() as stop:
        assert not stop.is_set()
        signal.raise_signal(signal.SIGINT)
        assert stop.is_set()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_a_thread_leaves_the_signals_alone():
    before, seen = signal.getsignal(signal.SIGINT), []

    def work():
        with stop_on_signal() as stop:
            seen.append((stop.is_set(), signal.getsignal(signal.SIGINT)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(False, before)]
