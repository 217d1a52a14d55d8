"""``python -m crm_service``: serves until SIGTERM."""

import sys

import uvicorn
from pydantic import ValidationError

from crm_service.app import create_app
from crm_service.settings import Settings
from kernel_common import logs


def main() -> int:
    try:
        settings = Settings()
    except ValidationError as error:
        wrong = (f"{'.'.join(map(str, e['loc'])).upper()}: {e['msg']}" for e in error.errors(include_input=False))
        print("crm:", "; ".join(wrong), file=sys.stderr)  # noqa: T201
        return 1
    logs.configure(settings.log_level)
    app = create_app(settings.database_url.get_secret_value())
    uvicorn.run(app, host=settings.crm_host, port=settings.crm_port, log_config=None, access_log=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
