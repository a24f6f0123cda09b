"""Signals become a request to stop, and every handler that was there before is there again."""

from __future__ import annotations

import ctypes
import faulthandler
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from vjepa_sdk.runtime.signals import stop_on_signal

NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


def c_handler(number: int) -> bytes:
    """Return the address of the function that the system calls."""
    action = ctypes.create_string_buffer(256)
    assert ctypes.CDLL(None).sigaction(int(number), None, action) == 0
    return action.raw[: ctypes.sizeof(ctypes.c_void_p)]


@pytest.mark.parametrize("number", NUMBERS)
def test_the_first_signal_is_a_request_and_the_second_interrupts(number: signal.Signals) -> None:
    with stop_on_signal() as stop:
        assert not stop.is_requested
        os.kill(os.getpid(), number)
        assert stop.is_requested
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)


def test_handlers_of_python_are_put_back() -> None:
    before = signal.signal(signal.SIGUSR1, lambda number, frame: None)
    try:
        found = [(signal.getsignal(number), c_handler(number)) for number in NUMBERS]
        with stop_on_signal():
            assert all(signal.getsignal(number) != old for number, (old, _) in zip(NUMBERS, found, strict=True))
        assert [(signal.getsignal(number), c_handler(number)) for number in NUMBERS] == found
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_a_handler_that_is_older_than_python_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    getsignal, signal_ = signal.getsignal, signal.signal

    def unknown(number: int) -> Any:
        return None if number == signal.SIGUSR1 else getsignal(number)

    def strict(number: int, handler: Any) -> Any:
        assert number != signal.SIGUSR1
        return signal_(number, handler)

    monkeypatch.setattr(signal, "getsignal", unknown)
    monkeypatch.setattr(signal, "signal", strict)
    with stop_on_signal() as stop:
        os.kill(os.getpid(), signal.SIGTERM)  # after which the others are given back to Python's own
    assert stop.is_requested


def test_a_handler_that_a_library_set_meanwhile_is_left_alone(tmp_path: Path) -> None:
    with open(tmp_path / "stacks", "w+") as stacks:
        faulthandler.register(signal.SIGUSR1, stacks, all_threads=False)
        try:
            before = c_handler(signal.SIGUSR1)
            with stop_on_signal() as stop:
                os.kill(os.getpid(), signal.SIGUSR1)
                assert not stop.is_requested
            assert c_handler(signal.SIGUSR1) == before
            os.kill(os.getpid(), signal.SIGUSR1)
        finally:
            faulthandler.unregister(signal.SIGUSR1)
        assert (tmp_path / "stacks").read_text().count("(most recent call first)") == 2
