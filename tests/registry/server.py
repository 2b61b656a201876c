"""A web server on this machine that misbehaves on demand."""

from __future__ import annotations

import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Server:
    """Serves ``files`` (path -> bytes); ``script[path]`` lists what to do with the next requests of a path.

    Actions: ``ok``, ``drop`` (half of what is left, then the line breaks), ``short`` (claims more than it sends, closes
    properly), ``html``, ``slow`` (in pieces), a number (that status), ``("bytes", b"...")`` (other content, correct
    headers). An exhausted script means ``ok``.
    """

    def __init__(self, ranges=True):
        self.files = {}
        self.script = {}
        self.requests = []  # (path, Range header)
        self.ranges = ranges
        self.etag = '"1"'
        self.lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                outer.answer(self)

            def log_message(self, *args):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.thread = threading.Thread(target=self.http.serve_forever, daemon=True)
        self.thread.start()
        self.base = f"http://127.0.0.1:{self.http.server_port}/"

    def close(self):
        self.http.shutdown()
        self.http.server_close()
        self.thread.join()

    def answer(self, request):
        path = request.path.lstrip("/")
        with self.lock:
            self.requests.append((path, request.headers.get("Range")))
            steps = self.script.get(path, [])
            action = steps.pop(0) if steps else "ok"
        request.close_connection = True
        if isinstance(action, int) or path not in self.files:
            request.send_response(action if isinstance(action, int) else 404)
            request.send_header("Content-Length", "0")
            request.end_headers()
            return
        if action == "html":
            page = b"<html>please log in</html>"
            request.send_response(200)
            request.send_header("Content-Type", "text/html; charset=utf-8")
            request.send_header("Content-Length", str(len(page)))
            request.end_headers()
            request.wfile.write(page)
            return
        content = action[1] if isinstance(action, tuple) else self.files[path]
        start = 0
        asked = request.headers.get("Range")
        if asked and self.ranges and request.headers.get("If-Range") == self.etag:
            start = int(asked.removeprefix("bytes=").split("-")[0])
        body = content[start:]
        request.send_response(206 if start else 200)
        if start:
            request.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        request.send_header("Content-Type", "application/gzip")
        request.send_header("ETag", self.etag)
        request.send_header("Content-Length", str(len(body) + (7 if action == "short" else 0)))
        request.end_headers()
        if action == "drop":
            body = body[: len(body) // 2]
        pieces = [body[i : i + 64] for i in range(0, len(body), 64)] if action == "slow" else [body]
        for piece in pieces:
            request.wfile.write(piece)
            if action == "slow":
                request.wfile.flush()
                time.sleep(0.002)
