"""Signals that ask a command to stop: it finishes what it is doing first."""

import signal

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class StopSignals:
    """While it is entered, SIGINT, SIGTERM and SIGHUP raise nothing.

    `received`: the first signal's number; 0 while none came.
    """

    def __init__(self) -> None:
        self.received = 0

    def __enter__(self) -> "StopSignals":
        # What the starter of this process ignores, as nohup does SIGHUP, stays ignored.
        heeded = [number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
        self._before = {number: signal.signal(number, self.receive) for number in heeded}
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def receive(self, number: int, frame: object = None) -> None:
        """The handler; or as if the signal had come."""
        self.received = self.received or number
