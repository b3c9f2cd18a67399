"""Settings for `manage.py runserver` with the echo application, beside Django's own command for static files."""

SECRET_KEY = "not-a-secret: of the tests alone"
DEBUG = True
INSTALLED_APPS = ["legacy_ws4redis", "django.contrib.staticfiles"]
STATIC_URL = "/static/"
WSGI_APPLICATION = "tests.legacy_ws4redis.echo.application"
