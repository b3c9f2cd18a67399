from django.contrib import admin

from demo.models import Call

admin.site.register(Call, list_display=["id", "caller", "interpreter", "language", "state", "rung_at"])
