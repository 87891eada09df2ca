"""On the PYTHONPATH of drills whose worker is started by `sightline worker`, as a user's is: puts the faults in."""

from __future__ import annotations

import sys

if sys.orig_argv[1:3] == ["-m", "workers"]:
    from tests.drills.sabotage import install

    install()
