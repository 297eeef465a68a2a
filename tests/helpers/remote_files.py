"""Servers of files for tests: S3's protocol by moto, in a process of its own, and HTTP."""

import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

CREDENTIALS = {"access_key": "test", "secret_key": "test", "region": "us-east-1"}


@contextmanager
def s3_server() -> Iterator[str]:
    """Serve S3 at 127.0.0.1; gives host and port."""
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"]
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=log)
        try:
            yield _address(process, log.fileno())
        finally:
            process.kill()
            process.wait()


def _address(process: "subprocess.Popen[bytes]", log: int) -> str:
    """Where a server says that it serves."""
    deadline = time.monotonic() + 60
    while True:
        said = os.pread(log, 1 << 16, 0).decode()
        if found := re.search(r"http://(127\.0\.0\.1:\d+)", said):
            return found[1]
        assert process.poll() is None, f"moto's server has ended: {said}"
        assert time.monotonic() < deadline, f"moto's server does not begin: {said}"
        time.sleep(0.02)


class HttpFiles:
    """Files by HTTP, with ranges. etag: returns a file's, None to send none. data: the requests for
    bytes so far.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.etag = lambda name: f'"{hash(self.files[name])}"'
        self.data = 0
        files = self

        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                self._answer(200, files.files[self.path[1:]], body=False)

            def do_GET(self) -> None:
                files.data += 1
                whole = files.files[self.path[1:]]
                wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
                if wanted is None:
                    self._answer(200, whole)
                    return
                start, end = int(wanted[1]), min(int(wanted[2] or len(whole)), len(whole) - 1)
                place = f"bytes {start}-{end}/{len(whole)}"
                self._answer(206, whole[start : end + 1], {"Content-Range": place})

            def _answer(self, code, data, headers=None, *, body=True) -> None:
                etag = files.etag(self.path[1:])
                self.send_response(code)
                told = {"Content-Length": str(len(data)), "Accept-Ranges": "bytes", "ETag": etag}
                for name, value in (told | (headers or {})).items():
                    if value is not None:
                        self.send_header(name, value)
                self.end_headers()
                if body:
                    self.wfile.write(data)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
