"""Reading the flag: from waffle's table into a snapshot, past waffle's cache."""

from collections.abc import Callable
from decimal import Decimal
from typing import Any, Final

import waffle
from django.core.exceptions import FieldDoesNotExist
from django.db import models, router
from django.db.models.functions import Cast

from shim.core.cohorts import BUCKETS, MAX_LISTED, UNVERSIONED, Snapshot, Version

LISTS: Final = ("users", "groups")
"""The flag's many-to-many fields that count."""

_FIELDS: Final = ("everyone", "superusers", "staff", "authenticated")
_PERCENT: Final = "realtime_percent"


def flag_model() -> type[models.Model]:
    """The model that waffle is set to (`WAFFLE_FLAG_MODEL`).

    Raises:
        ImproperlyConfigured: the setting names no model.
    """
    model: type[models.Model] = waffle.get_waffle_flag_model()
    return model


def flag_rows(name: str, using: str) -> "models.QuerySet[models.Model]":
    """The flag of that name, one row or none; not by the default manager, which may hide some."""
    return flag_model()._base_manager.using(using).filter(name=name)  # noqa: SLF001 - documented by Django


def flag_list(what: str) -> "models.ManyToManyField[Any, Any] | None":
    """The flag model's field `users` or `groups`, None if it has no such list."""
    try:
        field = flag_model()._meta.get_field(what)  # noqa: SLF001 - documented by Django
    except FieldDoesNotExist:
        return None
    return field if isinstance(field, models.ManyToManyField) else None


def read_snapshot(
    name: str, *, version: Version = UNVERSIONED, too_long: Callable[[str], None] = lambda _: None
) -> Snapshot:
    """Read a flag from the database that writes go to: one query, three if the lists count.

    Any waffle flag model will do: fields that it has not got count as unset; those that it has beyond
    waffle's, and its `is_active_for_user`, are not looked at. While `everyone` is Yes or No the lists
    decide nothing and are not read, so a rollback is the smallest push there is. Of a list longer than
    `MAX_LISTED` the first by key are taken, the same in every process, and the others stay on legacy: to
    refuse the flag for it would be to refuse a rollback too.

    Args:
        name: the flag's name.
        version: what to number the snapshot with.
        too_long: told `users` or `groups` if that list is cut.

    Raises:
        django.db.Error: the database did not answer, or has no such table.
        ImproperlyConfigured: as `flag_model`.
    """
    model = flag_model()
    rows = flag_rows(name, router.db_for_write(model))
    fields = {field.name for field in model._meta.concrete_fields}  # noqa: SLF001 - documented by Django
    wanted = list(fields.intersection(_FIELDS))
    if "percent" in fields:
        # waffle's field holds 99.9 at most. SQLite stores 100 all the same, and then Django cannot read the row as it
        # is: a flag that somebody meant for all, and its rollback, would count for nobody.
        rows = rows.annotate(**{_PERCENT: Cast("percent", models.FloatField())})
        wanted.append(_PERCENT)
    row = rows.values(*wanted).first()
    if row is None:
        return Snapshot(name, version=version)
    everyone = row.get("everyone")
    lists = {what: _listed(rows, what, too_long) for what in LISTS} if everyone is None else {}
    return Snapshot(
        name,
        exists=True,
        everyone=everyone,
        percent=_thousandths(row.get(_PERCENT)),
        superusers=bool(row.get("superusers")),
        staff=bool(row.get("staff")),
        authenticated=bool(row.get("authenticated")),
        version=version,
        **lists,
    )


def _thousandths(percent: Any) -> int:
    exact = Decimal(str(percent or 0))  # a model's own field may be a float: str() gives the digits that it means
    return min(BUCKETS, max(0, int(exact * 1000))) if exact.is_finite() else 0


def _listed(rows: "models.QuerySet[models.Model]", what: str, too_long: Callable[[str], None]) -> frozenset[str]:
    if flag_list(what) is None:
        return frozenset()
    key = f"{what}__pk"
    found = rows.filter(**{f"{key}__isnull": False}).order_by(key).values_list(key, flat=True)
    keys = [str(one) for one in found[: MAX_LISTED + 1]]
    if len(keys) > MAX_LISTED:
        too_long(what)
    return frozenset(keys[:MAX_LISTED])
