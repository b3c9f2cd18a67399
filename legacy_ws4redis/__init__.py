"""Backend 1: WebSockets on WSGI servers, in plain blocking style (threads; greenlets where gevent has patched them).

It is ws4redis under its own name, too: from here on `import ws4redis` can mean this package.
"""

from legacy_ws4redis.alias import install

__version__ = "0.6.0"
"""Of ws4redis, whose names these are; realtime shim's own is `shim.__version__`."""

install()
