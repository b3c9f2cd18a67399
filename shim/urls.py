"""URLs of the Django app: `path("realtime/", include("shim.urls"))`."""

from django.urls import path

from shim.discovery import endpoint
from shim.probes import livez, readyz

app_name = "realtime"
urlpatterns = [
    path("endpoint", endpoint, name="endpoint"),
    path("livez", livez, name="livez"),
    path("readyz", readyz, name="readyz"),
]
