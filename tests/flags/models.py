"""Flag models as projects make their own: any of them will do (`WAFFLE_FLAG_MODEL`)."""

from typing import Any, ClassVar

from django.db import models
from waffle.managers import FlagManager
from waffle.models import AbstractBaseFlag, AbstractUserFlag, Flag


class BareFlag(AbstractBaseFlag):
    """Without lists of users and groups."""


class Shown(FlagManager):
    def get_queryset(self) -> Any:
        return super().get_queryset().filter(is_archived=False)


class TeamFlag(AbstractUserFlag):
    """With fields of its own, finer percentages, and a manager that hides what is archived."""

    percent = models.DecimalField(max_digits=6, decimal_places=3, null=True, blank=True)
    is_archived: "models.BooleanField[bool, bool]" = models.BooleanField(default=False)
    teams = models.JSONField(default=list)

    objects: ClassVar[Any] = Shown()

    class Meta(AbstractUserFlag.Meta):
        abstract = False


class FlagProxy(Flag):
    """The usual model by another name."""

    class Meta:
        proxy = True
