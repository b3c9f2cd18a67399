"""URLs of the Django app: `path("realtime/", include("shim.urls"))`."""

from django.urls import path

from shim.discovery import endpoint

app_name = "realtime"
urlpatterns = [path("endpoint", endpoint, name="endpoint")]
