"""A web server on the loopback interface that answers what a test tells it to."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Answer:
    """What a path answers. cut: announce this many bytes more than are sent; None: announce nothing."""

    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    cut: int | None = 0


@dataclass
class Web:
    """The running server, and the requests that it has seen."""

    base: str
    answers: dict[str, Callable[[], Answer]]
    seen: list[tuple[str, str, dict[str, str], bytes]]

    @property
    def host(self) -> str:
        return self.base.removeprefix("http://")

    def serve(self, path: str, *answers: Answer) -> str:
        """Give these answers one after the other, the last one for ever; returns the URL."""
        queue = list(answers)
        self.answers[path] = lambda: queue.pop(0) if len(queue) > 1 else queue[0]
        return self.base + path


@contextmanager
def web() -> Iterator[Web]:
    """A server for the time of the block."""
    state = Web("", {}, [])

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.answer(b"")

        def do_HEAD(self) -> None:
            self.answer(b"")

        def do_POST(self) -> None:
            self.answer(self.rfile.read(int(self.headers["Content-Length"])))

        def answer(self, body: bytes) -> None:
            state.seen.append((self.command, self.path, dict(self.headers), body))
            answer = state.answers.get(self.path.partition("?")[0], lambda: Answer(status=404))()
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            if answer.cut is not None:
                self.send_header("Content-Length", str(len(answer.body) + answer.cut))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(answer.body)
            self.close_connection = True

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    state.base = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
