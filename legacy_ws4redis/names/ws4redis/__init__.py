"""What `import ws4redis` finds where nothing of realtime shim has been imported yet: a project's `wsgi.py` begins so.

It hands over to `legacy_ws4redis.alias`, which decides by the setting. The original package, where it is installed,
stands before it on `sys.path`.
"""

from legacy_ws4redis.alias import adopt

adopt(__name__)
