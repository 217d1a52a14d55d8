"""Mail: put into a queue, sent in the background, tried again a few times.

A request never waits for a mail server and never fails with it. The queue is in memory: a mail that a dying process had
not sent is lost, and people ask for another. Nothing of a mail but its kind and its failure is logged: its text holds
tokens.
"""

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from email.message import EmailMessage
from email.utils import formatdate, make_msgid
from pathlib import Path
from urllib.parse import unquote, urlsplit

from kernel_common.ids import uuid7
from kernel_gateway.settings import Settings

MOST_WAITING = 1000
AT_ONCE = 4
PAUSES = (1.0, 5.0, 25.0)
"""Seconds before each further try."""
TIMEOUT = 20.0
"""Seconds for one try."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Mail:
    """``kind`` names it in the log. One line of ``subject``, plain ``text``."""

    kind: str
    to: str
    subject: str
    text: str


Send = Callable[[EmailMessage], Awaitable[object]]


class MailQueue:
    """``send`` is None where nothing was configured: mails are dropped, and the log says so."""

    def __init__(self, sender: str, send: Send | None, pauses: tuple[float, ...] = PAUSES) -> None:
        self._sender, self._send, self._pauses = sender, send, pauses
        self._waiting: asyncio.Queue[Mail] = asyncio.Queue(MOST_WAITING)

    @classmethod
    def of(cls, settings: Settings) -> "MailQueue":
        """Raises ValueError when SMTP_URL can't be used."""
        if settings.smtp_url is not None:
            return cls(settings.mail_from, smtp(settings.smtp_url.get_secret_value()))
        return cls(settings.mail_from, into(settings.mail_directory) if settings.mail_directory else None)

    def put(self, mail: Mail) -> None:
        """Has ``mail`` sent. Never waits and never fails."""
        if self._send is None:
            log.warning("a %s mail was dropped: set SMTP_URL or MAIL_DIRECTORY", mail.kind)
            return
        try:
            self._waiting.put_nowait(mail)
        except asyncio.QueueFull:
            log.error("a %s mail was dropped: %d others wait", mail.kind, MOST_WAITING)

    async def run(self) -> None:
        """Sends what is put, until cancelled."""
        async with asyncio.TaskGroup() as group:
            for _ in range(AT_ONCE):  # one mail that fails must not hold up the others
                group.create_task(self._send_in_turn())

    async def _send_in_turn(self) -> None:
        while True:
            mail = await self._waiting.get()
            try:
                await self._deliver(mail)
            except Exception as error:
                log.error("a %s mail could not be made [%s]", mail.kind, type(error).__name__)
            finally:
                self._waiting.task_done()

    async def sent(self) -> None:
        """Returns when everything that was put is sent or given up."""
        await self._waiting.join()

    async def _deliver(self, mail: Mail) -> None:
        assert self._send is not None
        message = EmailMessage()
        message["From"], message["To"], message["Subject"] = self._sender, mail.to, mail.subject
        message["Date"], message["Message-ID"] = formatdate(), make_msgid(domain="platform-kernel")
        # Not quoted where it need not be: a link must be whole for who reads the file.
        message.set_content(mail.text, cte="7bit" if mail.text.isascii() else "quoted-printable")
        for pause in (*self._pauses, None):
            try:
                async with asyncio.timeout(TIMEOUT):
                    await self._send(message)
            except Exception as error:
                # Not its text: servers answer with addresses.
                log.warning(
                    "a %s mail could not be sent [%s]%s", mail.kind, type(error).__name__, "" if pause else ", given up"
                )
            else:
                return
            if pause is not None:
                await asyncio.sleep(pause)


def smtp(url: str) -> Send:
    """Sends to smtp(s)://user:password@host:port. A password is never sent without TLS. Raises ValueError."""
    import aiosmtplib

    parts = urlsplit(url)
    if parts.scheme not in ("smtp", "smtps") or not parts.hostname:
        raise ValueError("SMTP_URL must be smtp(s)://user:password@host:port")
    secure = parts.scheme == "smtps"

    async def send(message: EmailMessage) -> None:
        await aiosmtplib.send(
            message,
            hostname=parts.hostname,
            port=parts.port or (465 if secure else 587),
            username=unquote(parts.username) if parts.username else None,
            password=unquote(parts.password) if parts.password else None,
            use_tls=secure,
            start_tls=False if secure else (True if parts.password else None),
            timeout=TIMEOUT,
        )

    return send


def into(directory: Path) -> Send:
    """Writes each mail to a file of its own: for development."""

    def write(message: EmailMessage) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        unfinished = directory / f".{uuid7()}.tmp"
        handle = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(handle, "wb") as file:  # noqa: PTH123 - a descriptor, so that nobody else reads it
            file.write(bytes(message))
        unfinished.rename(directory / f"{uuid7()}.eml")

    return lambda message: asyncio.to_thread(write, message)
