"""manage.py create_staff NAME [--operator] [--password-stdin] [--disable]"""

import secrets
import sys

from django.contrib.auth.models import Group, Permission, User
from django.contrib.auth.password_validation import validate_password
from django.core.exceptions import ValidationError
from django.db import transaction

from memory.audit.log import record
from memory.maintenance.command import ServiceCommand, actor_name, usage
from memory.models import StaffModel

MAINT = "maint"
VIEWERS, OPERATORS = "viewers", "operators"
# What an operator may beside looking.
DEEDS = ("find_tenant", "erase_tenant", "quarantine_chunk", "set_flag")


class Command(ServiceCommand):
    help = (
        "Make an account of staff, or give one that is there a new password and these rights: to look, and with "
        "--operator to act. The password is made here and printed once, or read from stdin."
    )

    def add_arguments(self, parser):
        parser.add_argument("name", metavar="NAME")
        parser.add_argument("--operator", action="store_true", help="may erase, quarantine, set flags, find by user id")
        parser.add_argument("--password-stdin", action="store_true", help="one line on standard input is the password")
        parser.add_argument("--disable", action="store_true", help="the account may not log in any more")

    def handle(self, *, name, operator, password_stdin, disable, **options):
        if disable and (operator or password_stdin):
            raise usage("--disable goes alone")
        user = User(username=name, is_staff=True)
        try:
            user.clean_fields(exclude=["password"])
        except ValidationError as exc:
            raise usage("; ".join(exc.messages)) from None
        self.conclude(_disable(name) if disable else _create(user, operator, _password(user, password_stdin)))


def _password(user: User, from_stdin: bool) -> tuple[str, bool]:
    """The password, and whether it was made here."""
    if not from_stdin:
        return secrets.token_urlsafe(18), True
    password = sys.stdin.readline().rstrip("\r\n")
    try:
        validate_password(password, user)
    except ValidationError as exc:
        raise usage(" ".join(exc.messages)) from None
    return password, False


def _create(wanted: User, operator: bool, password: tuple[str, bool]) -> dict:
    secret, is_made = password
    users = User.objects.db_manager(MAINT)
    with transaction.atomic(using=MAINT):
        user, is_new = users.get_or_create(username=wanted.username, defaults={"is_staff": True})
        user.is_staff = user.is_active = True
        user.set_password(secret)
        user.save(using=MAINT)
        role = OPERATORS if operator else VIEWERS
        user.groups.set([_group(role)])
        record(
            actor=actor_name(), action="staff.create" if is_new else "staff.change", subject=user.username,
            detail={"role": role},
        )  # fmt: skip
    return {"name": user.username, "role": role, "new": is_new} | ({"password": secret} if is_made else {})


def _disable(name: str) -> dict:
    with transaction.atomic(using=MAINT):
        found = User.objects.using(MAINT).filter(username=name).update(is_active=False)
        if not found:
            raise usage(f"there is no account {name}")
        record(actor=actor_name(), action="staff.disable", subject=name)
    return {"name": name, "disabled": True}


def _group(role: str) -> Group:
    """The group of that name with the rights that it has in this version."""
    group, _ = Group.objects.db_manager(MAINT).get_or_create(name=role)
    wanted = [f"view_{model._meta.model_name}" for model in StaffModel.__subclasses__()]
    if role == OPERATORS:
        wanted += DEEDS
    found = Permission.objects.using(MAINT).filter(content_type__app_label="memory", codename__in=wanted)
    group.permissions.set(found)
    return group
