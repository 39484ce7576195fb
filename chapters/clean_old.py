"""Delete the files of training runs, and the drift reports, that are older than a number of days. It asks first.

Run it with `python -m chapters.clean_old 30`, or `make clean DAYS=30`. The files of the champion, of the version that a
rollback returns to and of the challenger stay, and so do all parameters and scores.
"""

import sys
from datetime import UTC, datetime, timedelta

from chapters.clean import confirm
from orchestration.bucket import wine_bucket
from orchestration.startup import connect_quietly
from wine_quality import retention, tracking
from wine_quality.command import exit_code
from wine_quality.config import Settings
from wine_quality.errors import SettingsError
from wine_quality.files import exclusive_lock


def clean_old(config: Settings, moment: datetime) -> int:
    """Count the runs and drift reports from before a moment, ask, and delete their files."""
    with tracking.store(config) as store, exclusive_lock(config.local / "registry.lock"):
        old = retention.older_than(store, moment)
        pages = [page for page in config.reports.glob("*.html") if page.stat().st_mtime < moment.timestamp()]
        if not (old or pages):
            print(f"clean     nothing is older than {moment:%Y-%m-%d}")
            return 0
        print(f"{len(old)} run(s) and {len(pages)} drift report(s) are older than {moment:%Y-%m-%d}.")
        if not confirm("This deletes their files; parameters and scores stay."):
            return 1
        if old:
            with wine_bucket(config) as (bucket, _):
                for version in old:
                    retention.delete_files(store, bucket, version, config.mlruns)
        for page in pages:
            page.unlink(missing_ok=True)
    print("clean     done")
    return 0


def main() -> int:
    """Delete what is older than the number of days on the command line."""
    words = sys.argv[1:]
    if not (len(words) == 1 and words[0].isascii() and words[0].isdecimal() and 1 <= int(words[0]) <= 36500):
        raise SettingsError("how old? Give a number of days from 1 to 36500, as in: make clean DAYS=30")
    return clean_old(connect_quietly(), datetime.now(UTC) - timedelta(days=int(words[0])))


if __name__ == "__main__":
    sys.exit(exit_code(main))
