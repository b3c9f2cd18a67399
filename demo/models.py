"""What the dispatch room keeps."""

from typing import ClassVar

from django.conf import settings
from django.db import models


class Call(models.Model):
    """Somebody needs an interpreter: rung by a caller, taken by one interpreter, ended by either."""

    class State(models.TextChoices):
        RINGING = "ringing"
        TAKEN = "taken"
        ENDED = "ended"

    caller = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE, related_name="+")
    interpreter = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE, null=True, blank=True, related_name="+")
    language = models.CharField(max_length=40)
    state = models.CharField(max_length=8, choices=State, default=State.RINGING, db_index=True)
    rung_at = models.DateTimeField(auto_now_add=True)

    objects: ClassVar[models.Manager["Call"]] = models.Manager()

    def __str__(self) -> str:
        return f"call {self.pk} ({self.language}, {self.state})"
