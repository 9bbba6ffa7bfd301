"""A database knows by which key its users are named, and takes over the check of an earlier version."""

from __future__ import annotations

import pytest
from django.core.management import call_command

from memory.embedding.spaces import default_space, forget_spaces
from memory.errors import SpaceMismatch
from memory.keys.master_keys import former_tenant_key_check, tenant_key_check

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "owner"])


@pytest.fixture
def stored_check(superuser):
    """Sets what the active space's row holds; afterwards it holds the right one again."""

    def store(check: bytes) -> None:
        superuser.execute("UPDATE memory_spaces SET tenant_key_check = %s WHERE active", [check])
        forget_spaces()

    yield store
    store(tenant_key_check())


def test_the_check_of_an_earlier_version_is_told_and_register_space_renews_it(stored_check):
    stored_check(former_tenant_key_check())
    with pytest.raises(SpaceMismatch, match=r"run `manage\.py register_space`"):
        default_space()
    # As every start of the launcher does.
    call_command("register_space", "--if-none")
    forget_spaces()
    assert default_space() == 1


def test_the_check_of_another_key_is_refused_and_never_renewed(stored_check):
    stored_check(bytes(32))
    call_command("register_space", "--if-none")
    forget_spaces()
    with pytest.raises(SpaceMismatch, match="MEMORY_TENANT_HMAC_KEY is not the key"):
        default_space()
