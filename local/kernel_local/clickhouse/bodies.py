"""Request and response bodies: bounded reading, decompression, compression, form fields."""

import email.parser
import email.policy
import zlib
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import parse_qsl

import lz4.frame

from kernel_local.clickhouse import errors
from kernel_local.clickhouse.errors import error

MAX_REQUEST_BYTES = 128 << 20
MAX_DECODED_BYTES = 256 << 20


def _zstd() -> Any:
    try:
        from compression import zstd  # type: ignore[import-not-found]  # Python 3.14
    except ImportError:
        from backports import zstd
    return zstd


def too_large(limit: int) -> errors.ClickHouseError:
    """The error for a body over the limit in bytes."""
    return error(errors.TOO_MANY_BYTES, f"The development server takes at most {limit >> 20} MiB in one request")


def decode(body: bytes, encoding: str) -> bytes:
    """Undoes a Content-Encoding (gzip, deflate, lz4, zstd), at most MAX_DECODED_BYTES.

    Raises:
        ClickHouseError: unknown encoding, damaged data, or too large.
    """
    encoding = encoding.strip().lower()
    if encoding in ("", "identity"):
        return body
    makers: dict[str, Callable[[], Any]] = {
        "gzip": lambda: zlib.decompressobj(zlib.MAX_WBITS | 16),
        "deflate": zlib.decompressobj,
        "lz4": lz4.frame.LZ4FrameDecompressor,
        "zstd": lambda: _zstd().ZstdDecompressor(),
    }
    if encoding not in makers:
        raise error(errors.NOT_IMPLEMENTED, f"Content-Encoding {encoding[:20]!r}: use gzip, deflate, lz4 or zstd")
    parts = []
    size = 0
    while body:
        frame = makers[encoding]()
        try:
            part = frame.decompress(body, MAX_DECODED_BYTES + 1 - size)
        except Exception as failure:
            raise error(errors.CANNOT_DECOMPRESS, f"The body is not valid {encoding}: {failure}") from None
        size += len(part)
        if size > MAX_DECODED_BYTES:
            raise too_large(MAX_DECODED_BYTES)
        if not frame.eof:
            raise error(errors.CANNOT_DECOMPRESS, f"The {encoding} body ends too early")
        parts.append(part)
        body = frame.unused_data or b""
    return b"".join(parts)


def choose_encoding(accepted: str) -> str | None:
    """The first encoding of an Accept-Encoding header that this server writes."""
    for one in accepted.split(","):
        name = one.partition(";")[0].strip().lower()
        if name in ("lz4", "zstd", "gzip", "deflate"):
            return name
    return None


def encode(pieces: Iterator[bytes], encoding: str | None) -> Iterator[bytes]:
    """Compresses a stream of pieces; without an encoding passes them on."""
    if encoding is None:
        yield from pieces
        return
    if encoding == "lz4":
        with lz4.frame.LZ4FrameCompressor() as frame:
            yield frame.begin()
            for piece in pieces:
                yield frame.compress(piece)
            yield frame.flush()
        return
    compressor = (
        _zstd().ZstdCompressor()
        if encoding == "zstd"
        else zlib.compressobj(1, zlib.DEFLATED, zlib.MAX_WBITS | 16 if encoding == "gzip" else zlib.MAX_WBITS)
    )
    for piece in pieces:
        yield compressor.compress(piece)
    yield compressor.flush()


def form_fields(body: bytes, content_type: str) -> dict[str, str] | None:
    """The fields of a form body, or None where the body is not a form.

    Raises:
        ClickHouseError: NOT_IMPLEMENTED for files (ClickHouse's external tables).
    """
    if content_type.startswith("application/x-www-form-urlencoded"):
        return dict(parse_qsl(body.decode(errors="replace"), keep_blank_values=True))
    if not content_type.startswith("multipart/form-data"):
        return None
    head = f"Content-Type: {content_type}\r\n\r\n".encode("latin-1", errors="replace")
    message = email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(head + body)
    fields = {}
    for part in message.iter_parts():
        if part.get_filename() is not None:
            raise error(errors.NOT_IMPLEMENTED, "External tables are not supported by the development server")
        name = part.get_param("name", header="content-disposition")
        content = part.get_payload(decode=True)
        fields[str(name)] = content.decode(errors="replace") if isinstance(content, bytes) else ""
    return fields
