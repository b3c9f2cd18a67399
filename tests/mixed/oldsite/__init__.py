"""A site that was never upgraded: Python 3.9, Django 3.2, django-websocket-redis 0.6.0, installed apart."""
