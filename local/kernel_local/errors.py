"""What the command line turns into one line on stderr."""


class PlatformError(Exception):
    """Something a person must know or do, in one line, without secrets."""


class PartFailed(PlatformError):
    """A part did not come up; the message names it, its last words and its log file."""
