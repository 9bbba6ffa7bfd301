"""A database knows by which key its users are named."""

from __future__ import annotations

import pytest
from django.core.management import call_command

from memory.embedding.spaces import default_space, dimension_of, forget_spaces
from memory.errors import SpaceMismatch
from memory.keys.master_keys import tenant_key_check

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "owner"])


@pytest.fixture
def stored_check(superuser):
    """Sets what the default space's row holds; afterwards it holds the right one again."""

    def store(check: bytes) -> None:
        superuser.execute("UPDATE memory_spaces SET tenant_key_check = %s WHERE is_default", [check])
        forget_spaces()

    yield store
    store(tenant_key_check())


def test_the_check_of_another_key_is_refused_and_never_renewed(stored_check):
    stored_check(bytes(32))
    # As every start of the launcher does.
    call_command("register_space", "--if-none")
    forget_spaces()
    with pytest.raises(SpaceMismatch, match="MEMORY_TENANT_HMAC_KEY is not the key"):
        default_space()
    with pytest.raises(SpaceMismatch, match="MEMORY_TENANT_HMAC_KEY is not the key"):
        dimension_of(1)


def test_the_right_check_is_believed(stored_check):
    stored_check(bytes(32))
    stored_check(tenant_key_check())
    assert dimension_of(default_space()) == 384
