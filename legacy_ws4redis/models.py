"""`ws4redis.models`: no models, as there were none, but the receiver that fills `ws4redis:memberof`.

`shim.apps` connects it, so that signing in fills the session whichever backend serves the request.
"""

from shim.ws4redis.session import remember_groups as store_groups_in_session

__all__ = ["store_groups_in_session"]
