"""Runs localstripe on the loopback address alone, where it would listen on all of them."""

import sys

sys.path.insert(0, sys.argv[1])

from aiohttp import web  # noqa: E402
from localstripe import resources, server  # noqa: E402

# What it has is this run's alone.
resources.Store.dump_to_disk = lambda store: None

web.run_app(server.app, host="127.0.0.1", port=int(sys.argv[2]), print=None)
