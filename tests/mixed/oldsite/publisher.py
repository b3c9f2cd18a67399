"""A process that publishes as an application does: one JSON line on stdin, one answer on stdout.

`{"facility": "chat", "users": ["ana"], "text": "hi"}` publishes; with `"fetch"` in place of `"text"` it says what
`fetch_message` finds for everyone.
"""

import json
import sys

import django

django.setup()

from ws4redis.publisher import RedisPublisher  # noqa: E402
from ws4redis.redis_store import RedisMessage  # noqa: E402

print("ready", flush=True)  # noqa: T201
for line in sys.stdin:
    told = json.loads(line)
    facility = told.pop("facility")
    if "fetch" in told:
        found = RedisPublisher().fetch_message(None, facility, "broadcast")
        answer = None if found is None else found.decode()
    else:
        texts, expire = told.pop("texts"), told.pop("expire", None)
        for text in texts:
            RedisPublisher(facility=facility, **told).publish_message(RedisMessage(text), expire)
        answer = "ok"
    print(json.dumps(answer), flush=True)  # noqa: T201
