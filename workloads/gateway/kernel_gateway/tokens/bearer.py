"""The token in the Authorization headers of a request."""

from collections.abc import Sequence

from kernel_gateway.tokens.tokens import TokenRefused


def bearer(values: Sequence[str]) -> str:
    """The one token of ``values``, which are all Authorization headers of a request; a proxy may have joined several
    with commas. Raises TokenRefused: 401 when there is none, 400 when there are two different ones, because whoever
    reads the request next might take the other."""
    credentials = {part.strip() for value in values for part in value.split(",")} - {""}
    if not credentials:
        raise TokenRefused("unauthenticated", "the request needs 'Authorization: Bearer' and a token")
    tokens = set()
    for credential in credentials:
        scheme, _, token = credential.partition(" ")
        if scheme.lower() != "bearer":
            raise TokenRefused("unauthenticated", "the Authorization header must be of the scheme Bearer")
        tokens.add(token.lstrip(" "))
    if len(tokens) > 1:
        raise TokenRefused("validation-error", "the request carries two different tokens: send one", status=400)
    return tokens.pop()
