"""
The configuration as the daemon and the commands read it.

Commands read it without the daemon, whose import takes longer than most of them.
"""

from __future__ import annotations

import os
import time
from functools import partial
from pathlib import Path

from middlewared.config import Config, read_config
from middlewared.service.apps import file_problems, payload_warnings
from middlewared.service.certificate_checks import certificate_warnings
from middlewared.service.loaded_files import LoadedFiles


def read_all(path: Path | None, files: LoadedFiles | None = None) -> Config:
    """
    The configuration, with the files that it names also checked.

    :param files: what was loaded before.
    :raises ConfigError: with every problem.
    """
    return read_config(
        path,
        os.environ,
        find_problems=partial(file_problems, now=time.time(), files=files),
        find_warnings=lambda config: (*certificate_warnings(config), *payload_warnings(config)),
    )
