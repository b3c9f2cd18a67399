"""A folder for the end of `sys.path`: `realtime_shim_ws4redis.pth` puts it there where realtime shim is installed."""
