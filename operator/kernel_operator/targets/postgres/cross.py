"""The functions that cross tenants, as this version's ``cross.sql`` makes them: what the database must hold."""

import json
import re
from importlib import resources

_FUNCTION = re.compile(
    r"^CREATE FUNCTION kernel_cross\.(?P<name>\w+)\((?P<arguments>[^)]*)\).*?AS \$\$(?P<body>.*?)\$\$;$",
    re.DOTALL | re.MULTILINE,
)


def crossing_functions() -> str:
    """A JSON array of {name, arguments, body}, each as the catalogue has it."""
    text = resources.files(__package__).joinpath("cross.sql").read_text(encoding="utf-8")
    return json.dumps(
        [{**match.groupdict(), "arguments": " ".join(match["arguments"].split())} for match in _FUNCTION.finditer(text)]
    )
