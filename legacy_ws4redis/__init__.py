"""Backend 1: WebSockets on WSGI servers, in plain blocking style (threads; greenlets where gevent has patched them)."""
