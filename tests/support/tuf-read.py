"""Reads a TUF repository with the reference client.

tuf-read.py METADATA_DIR METADATA_URL TARGETS_URL TARGET_DIR TRUSTED_ROOT [TARGET ...]

Prints one JSON object: the versions of the four roles, and path and custom field of each target. A repository that
is refused gives {"refused": "<class of the error>: <text>"} instead. Exits with 0 either way.
"""

import json
import sys
from pathlib import Path

from tuf.api.exceptions import DownloadError, RepositoryError
from tuf.ngclient import Updater


def read(metadata_dir, metadata_url, targets_url, target_dir, trusted_root, targets):
    updater = Updater(
        metadata_dir=metadata_dir,
        metadata_base_url=metadata_url,
        target_dir=target_dir,
        target_base_url=targets_url,
        bootstrap=Path(trusted_root).read_bytes(),
    )
    updater.refresh()
    trusted = updater._trusted_set
    result = {"versions": {role: trusted[role].version for role in ("root", "timestamp", "snapshot", "targets")}}
    result["targets"] = {}
    for name in targets:
        info = updater.get_targetinfo(name)
        if info is None:
            result["targets"][name] = None
            continue
        path = updater.download_target(info)
        result["targets"][name] = {"path": path, "custom": info.custom}
    return result


def main():
    *arguments, = sys.argv[1:6]
    try:
        result = read(*arguments, sys.argv[6:])
    except (RepositoryError, DownloadError, ValueError) as error:
        result = {"refused": f"{type(error).__name__}: {error}"}
    print(json.dumps(result))


main()
