"""What the swap adds: the second backend."""

import os

from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "newsroom.swapped")
_pages = get_asgi_application()

from channels_impl.application import RealtimeApplication

application = RealtimeApplication(_pages)
