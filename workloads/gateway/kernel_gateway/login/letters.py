"""What the mails of the login say."""

from urllib.parse import quote

from kernel_gateway.login.mail import Mail
from kernel_gateway.settings import Settings


def verify_email(settings: Settings, to: str, token: str) -> Mail:
    return Mail(
        "verify-email",
        to,
        "Confirm your address",
        "Confirm that this address is yours (the link works for 24 hours):\n\n"
        f"{link(settings, 'verify-email', token)}\n\n"
        "If you did not register, ignore this mail.\n",
    )


def reset_password(settings: Settings, to: str, token: str) -> Mail:
    return Mail(
        "reset-password",
        to,
        "Choose a new password",
        f"Choose a new password (the link works once, for one hour):\n\n{link(settings, 'reset-password', token)}\n\n"
        "If you did not ask for this, ignore this mail: nothing has changed.\n",
    )


def link(settings: Settings, page: str, token: str) -> str:
    """A page of the product's own; the token is behind ``#``, which browsers send to no server."""
    return f"{settings.gateway_public_url.rstrip('/')}/{page}#token={quote(token, safe='')}"
