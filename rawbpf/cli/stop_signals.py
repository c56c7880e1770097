"""Signals that ask a command to stop: it finishes what it is doing first."""

import signal

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class StopSignals:
    """While it is entered, SIGINT, SIGTERM and SIGHUP raise nothing. The first one's number is kept in `received`."""

    # 0 while none came.
    received = 0

    def __enter__(self) -> "StopSignals":
        # What the starter of this process ignores, as nohup does SIGHUP, stays ignored.
        heeded = [number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
        self._before = {number: signal.signal(number, self._receive) for number in heeded}
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _receive(self, number: int, frame: object) -> None:
        self.received = self.received or number
