"""ws4redis as it was, on top of realtime shim: what both backends need of it (docs/reference/ws4redis.md).

`REALTIME_WS4REDIS = True` turns the compatible mode on. Then ws4redis's own settings are read, and a facility that no
class claims is a `CompatibleFacility`, whose audiences the client's query asks for. The old Python names stand in
`legacy_ws4redis`, in modules that are called as they were; what they mean is decided here.
"""
