"""`rawbpf metrics --listen`: the metrics over HTTP, for Prometheus to scrape."""

import socket
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import cast

from rawbpf.cli.errors import DONE, as_text
from rawbpf.cli.metrics import scrape
from rawbpf.cli.output import complain, say
from rawbpf.cli.stop_signals import StopSignals

_CONTENT_TYPE = "application/openmetrics-text; version=1.0.0; charset=utf-8"
_PLAIN_TEXT = "text/plain; charset=utf-8"

# How often is looked whether a signal asked to stop, and how long a client may take, in seconds.
_LOOK = 0.1
_PATIENCE = 10


class Server(ThreadingHTTPServer):
    """Each scrape opens the maps anew: nothing is kept alive in between, and a pin may be replaced."""

    timeout = _LOOK
    # At the end nobody waits for a client that does not read.
    daemon_threads = True
    block_on_close = False

    def __init__(self, specs: list[str], address: str, port: int) -> None:
        self.specs = specs
        self._said: set[str] = set()
        self.address_family = socket.AF_INET6 if ":" in address else socket.AF_INET
        super().__init__((address, port), Handler)

    def scrape(self) -> tuple[int, str, str]:
        """Status, content type and text of an answer. What is wrong is said on stderr as well, the same only once."""
        errors: list[Exception] = []
        try:
            text, found = scrape(self.specs)
            errors += found
            return 200, _CONTENT_TYPE, text
        except (OSError, ValueError, TypeError) as error:
            errors.append(error)
            return 503, _PLAIN_TEXT, f"{as_text(error)}\n"
        finally:
            for said in sorted({as_text(error) for error in errors} - self._said):
                self._said.add(said)
                complain(said)


class Handler(BaseHTTPRequestHandler):
    """GET /metrics."""

    timeout = _PATIENCE
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.path.partition("?")[0] != "/metrics":
            self._answer(404, _PLAIN_TEXT, "the metrics are at /metrics\n")
            return
        self._answer(*cast(Server, self.server).scrape())

    def _answer(self, status: int, content_type: str, text: str) -> None:
        body = text.encode("utf-8", "backslashreplace")
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002
        """Scrapes are not logged."""


def serve(specs: list[str], address: str, port: int) -> int:
    """Answers until SIGINT, SIGTERM or SIGHUP."""
    with StopSignals() as stop, Server(specs, address, port) as server:
        # A map that can't be opened now may come later, and a lack of rights is worth saying at once.
        server.scrape()
        host, bound = server.server_address[:2]
        shown = f"[{host!s}]" if ":" in str(host) else str(host)
        say(f"listening on http://{shown}:{bound}/metrics")
        while not stop.received:
            server.handle_request()
    return DONE
