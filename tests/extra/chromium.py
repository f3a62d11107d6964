"""The browser that looks at pages: this machine's Chromium. `python -m tests.extra.chromium` says if there is none."""

import os
import shutil
import sys

SETTING = "SYNC_CHROMIUM"
_NAMES = ("chromium", "chromium-browser", "google-chrome")
LACKING = (
    f"make test-extra needs a Chromium: install one that is found as {', '.join(_NAMES[:-1])} or {_NAMES[-1]},"
    f" or name its program in {SETTING}."
)


def find() -> str | None:
    """The program's path, or None."""
    wanted = os.environ.get(SETTING)
    return next(filter(None, map(shutil.which, [wanted] if wanted else _NAMES)), None)


if __name__ == "__main__":
    sys.exit(None if find() else LACKING)
