"""The HTTP interface: authentication, bodies, answers and errors in ClickHouse's form. A thread a connection."""

import base64
import binascii
import contextlib
import hashlib
import hmac
import json
import socket
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl, urlsplit

from kernel_local.clickhouse import bodies, errors
from kernel_local.clickhouse.commits import AccessCommits
from kernel_local.clickhouse.errors import ClickHouseError, error
from kernel_local.clickhouse.guard import Principal
from kernel_local.clickhouse.logs import log
from kernel_local.clickhouse.requests import Answer, Request, Requests
from kernel_local.clickhouse.state import ADMINISTRATOR

MAX_CONNECTIONS = 500
IDLE_SECONDS = 60
_MAX_FIELDS = 1000
_TEXT = "text/plain; charset=UTF-8"


class Server(ThreadingHTTPServer):
    """The listening server; `drain` ends it without cutting requests."""

    request_queue_size = 256
    daemon_threads = True
    block_on_close = False

    def __init__(
        self, address: tuple[str, int], password_hash: str, requests: Requests, commits: AccessCommits
    ) -> None:
        self.password_hash = password_hash
        self.requests = requests
        self.commits = commits
        self._changed = threading.Condition()
        self._connections: set[socket.socket] = set()
        self._active = 0
        self.draining = False
        super().__init__(address, _Handler)

    def process_request(self, request: socket.socket, client_address: object) -> None:  # type: ignore[override]
        """Starts the connection's thread, or closes the connection where there are too many."""
        with self._changed:
            if len(self._connections) >= MAX_CONNECTIONS:
                self.shutdown_request(request)
                return
            self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: socket.socket) -> None:  # type: ignore[override]
        """Closes a connection."""
        with self._changed:
            self._connections.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: object, client_address: object) -> None:
        """One line, and none where the client went away."""
        failure = sys.exc_info()[1]
        if not isinstance(failure, OSError):
            log(f"connection failed: {type(failure).__name__}: {failure}")

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        """Held while a request is answered."""
        with self._changed:
            self._active += 1
        try:
            yield
        finally:
            with self._changed:
                self._active -= 1
                self._changed.notify_all()

    def drain(self, seconds: float) -> bool:
        """Lets requests that run end, at most `seconds`, then closes every connection. True if all ended."""
        self.draining = True
        with self._changed:
            ended = self._changed.wait_for(lambda: not self._active, seconds)
            for connection in self._connections:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
        return ended

    def authenticate(self, user: str, password: str) -> Principal:
        """The principal behind a name and password.

        Raises:
            ClickHouseError: AUTHENTICATION_FAILED, the same for a wrong password and an unknown user.
        """
        known = self.password_hash if user == ADMINISTRATOR else self.commits.state.users.get(user)
        given = hashlib.sha256(password.encode(errors="surrogateescape")).hexdigest()
        # An unknown user is compared too, with a hash that no password has, so that both take the same time.
        if not hmac.compare_digest(known or "-" * 64, given):
            shown = user.encode(errors="replace").decode()[:128]
            raise error(
                errors.AUTHENTICATION_FAILED,
                f"{shown}: Authentication failed: password is incorrect, or there is no user with such name.",
            )
        return Principal(user)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "ClickHouse-development"
    sys_version = ""
    disable_nagle_algorithm = True
    wbufsize = 1 << 16
    timeout = IDLE_SECONDS
    server: Server

    def log_message(self, format: str, *args: object) -> None:
        """Requests are logged by `_log`, without URLs: they may carry passwords."""

    def do_GET(self) -> None:
        """A request that only reads."""
        self._serve(by_get=True)

    def do_HEAD(self) -> None:
        """As GET without a body."""
        self._serve(by_get=True)

    def do_POST(self) -> None:
        """Any request."""
        self._serve(by_get=False)

    def _serve(self, by_get: bool) -> None:
        with self.server.active():
            self.close_connection = self.close_connection or self.server.draining
            self._query_id = str(uuid.uuid4())
            self._started = False
            self._user = self._kind = "-"
            began = time.monotonic()
            code = 0
            try:
                self._answer(by_get)
            except ClickHouseError as failure:
                code = failure.code
                self._fail(failure)
            except (BrokenPipeError, ConnectionError, TimeoutError):
                code = 210
                self.close_connection = True
            except Exception as failure:
                code = errors.UNKNOWN_EXCEPTION
                log(f"unexpected {type(failure).__name__}")
                self._fail(error(code, "The development server failed on this request; see its log"))
            milliseconds = (time.monotonic() - began) * 1000
            if self._kind not in ("ping", "-") or code:
                shown = "".join(one if one.isprintable() else "?" for one in self._user[:128])
                log(f"{self._kind} user={shown} code={code} {milliseconds:.1f} ms")

    def _fail(self, failure: ClickHouseError) -> None:
        if self._started:  # the status line is gone: a cut body is how HTTP says that it is not whole
            self.close_connection = True
            return
        body = failure.body
        with contextlib.suppress(OSError):
            self._head(failure.status, _TEXT)
            self.send_header("X-ClickHouse-Exception-Code", str(failure.code))
            self._body(body)

    def _answer(self, by_get: bool) -> None:
        address = urlsplit(self.path)
        raw = self._read_body()
        fields = parse_qsl(address.query, keep_blank_values=True, max_num_fields=_MAX_FIELDS)
        options = dict(fields)
        if address.path == "/ping" or (address.path == "/" and not address.query and not raw):
            self._kind = "ping"
            self._head(200, _TEXT)
            self._body(b"Ok.\n")
            return
        principal = self._principal(options)
        self._user = principal.name
        if given := options.get("query_id"):
            self._query_id = "".join(one for one in given[:128] if one.isalnum() or one in "-_.")
        raw = bodies.decode(raw, self.headers.get("Content-Encoding", ""))
        form = bodies.form_fields(raw, self.headers.get("Content-Type", ""))
        if form is not None and (form.keys() & {"query"} or options.get("query")):
            options |= form
            raw = b""
        for header, option in (("X-ClickHouse-Database", "database"), ("X-ClickHouse-Format", "default_format")):
            if header in self.headers:
                options.setdefault(option, self.headers[header])
        if options.get("compress") == "1" or options.get("decompress") == "1":
            raise error(errors.NOT_IMPLEMENTED, "Use Content-Encoding and Accept-Encoding in place of compress=1")
        statement, data = (options["query"].encode(), raw) if options.get("query") else (raw, b"")
        if not statement.strip():
            raise error(errors.SYNTAX_ERROR, "Empty query")
        with ExitStack() as held:
            answer = self.server.requests.answer(Request(principal, statement, data, options, by_get=by_get), held)
            self._kind = answer.kind
            self._send(answer, options, held)

    def _principal(self, options: dict[str, str]) -> Principal:
        user, password = options.get("user") or ADMINISTRATOR, options.get("password", "")
        if "X-ClickHouse-User" in self.headers or "X-ClickHouse-Key" in self.headers:
            user = self.headers.get("X-ClickHouse-User", "") or ADMINISTRATOR
            password = self.headers.get("X-ClickHouse-Key", "")
        elif authorization := self.headers.get("Authorization", ""):
            method, _, secret = authorization.partition(" ")
            try:
                if method.lower() != "basic":
                    raise ValueError
                text = base64.b64decode(secret.strip(), validate=True).decode()
            except (ValueError, binascii.Error):
                raise error(
                    errors.AUTHENTICATION_FAILED, "Authentication failed: the Authorization header is not Basic"
                ) from None
            user, _, password = text.partition(":")
        return self.server.authenticate(user, password)

    def _read_body(self) -> bytes:
        limit = bodies.MAX_REQUEST_BYTES
        try:
            if "chunked" in self.headers.get("Transfer-Encoding", "").lower():
                return self._read_chunks(limit)
            length = int(self.headers.get("Content-Length") or 0)
        except ValueError:
            self.close_connection = True
            raise error(errors.BAD_ARGUMENTS, "The length of the body is not a number") from None
        if not 0 <= length <= limit:
            self.close_connection = True
            raise bodies.too_large(limit)
        body = self.rfile.read(length)
        if len(body) < length:
            raise ConnectionError("the client closed inside the body")
        return body

    def _read_chunks(self, limit: int) -> bytes:
        body = bytearray()
        while True:
            size = int(self.rfile.readline(1024).split(b";")[0], 16)
            if size < 0 or len(body) + size > limit:
                self.close_connection = True
                raise bodies.too_large(limit)
            if size == 0:
                while self.rfile.readline(65536).strip():
                    pass
                return bytes(body)
            chunk = self.rfile.read(size)
            if len(chunk) < size:
                raise ConnectionError("the client closed inside the body")
            body += chunk
            self.rfile.readline(1024)

    def _send(self, answer: Answer, options: dict[str, str], held: ExitStack) -> None:
        """Writes the answer. What the request held is free before the client can know that it is over."""
        encoding = None
        if options.get("enable_http_compression") == "1":
            encoding = bodies.choose_encoding(self.headers.get("Accept-Encoding", ""))
        self._head(200, "application/octet-stream" if answer.output_format else _TEXT)
        if answer.output_format:
            self.send_header("X-ClickHouse-Format", answer.output_format)
        summary = dict.fromkeys(("read_rows", "read_bytes", "written_rows", "written_bytes", "result_rows"), 0)
        counters = {name: str(value) for name, value in (summary | answer.summary).items()}
        self.send_header("X-ClickHouse-Summary", json.dumps(counters))
        if answer.output_format is None or self.command == "HEAD":
            body = b"".join(answer.pieces)
            held.close()
            self._body(body)
            return
        if encoding:
            self.send_header("Content-Encoding", encoding)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self._started = True
        for piece in bodies.encode(answer.pieces, encoding):
            if piece:
                self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
        held.close()
        self.wfile.write(b"0\r\n\r\n")
        self.wfile.flush()

    def _head(self, status: int, content_type: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("X-ClickHouse-Server-Display-Name", "development")
        self.send_header("X-ClickHouse-Query-Id", self._query_id)
        self.send_header("X-ClickHouse-Timezone", "UTC")
        if self.close_connection:
            self.send_header("Connection", "close")

    def _body(self, body: bytes) -> None:
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self._started = True
        if self.command != "HEAD":
            self.wfile.write(body)
        self.wfile.flush()
