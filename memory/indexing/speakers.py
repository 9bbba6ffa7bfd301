"""The known speakers of a user change: profiles that were cached before do not stand any more.

They are those of the documents there are. Whoever writes a document of a speaker unknown so far, or takes away the last
one of a speaker, renews the tenant's profile in the same transaction, so that every process reads it anew.
"""

from __future__ import annotations

from collections.abc import Iterable
from uuid import uuid4

from memory.rls import TenantTransaction
from memory.sealing.profile import RENEW_PROFILE, TenantProfile

_RENEW_WHERE_GONE = f"""{RENEW_PROFILE} AND EXISTS (
    SELECT FROM unnest(%s::integer[]) AS gone (speaker)
    WHERE NOT EXISTS (SELECT FROM memory_documents d WHERE d.user_hash = %s AND d.speaker = gone.speaker))"""


def is_new_speaker(profile: TenantProfile, speakers: Iterable[int | None]) -> bool:
    """Whether `profile` does not know one of `speakers`, blind ids; None is nobody."""
    return not profile.has_too_many_speakers and not {*speakers} <= {None, *profile.speakers}


def renew_for_new_speakers(
    tx: TenantTransaction, profile: TenantProfile, speakers: Iterable[int | None], *, has_replaced: bool
) -> None:
    """Renew `profile` for documents of `speakers` that were stored in `tx`.

    `has_replaced`: one took an earlier version's place, which may have been the last of another speaker.
    """
    if is_new_speaker(profile, speakers) or (has_replaced and profile.has_too_many_speakers):
        tx.execute(RENEW_PROFILE, [uuid4(), tx.user_hash])
    elif has_replaced:
        renew_for_gone_speakers(tx, profile.speakers)


def renew_for_gone_speakers(tx: TenantTransaction, speakers: Iterable[int | None]) -> None:
    """Renew the profile where one of `speakers` has no document any more; None is nobody."""
    if asked := sorted({speaker for speaker in speakers if speaker is not None}):
        tx.execute(_RENEW_WHERE_GONE, [uuid4(), tx.user_hash, asked, tx.user_hash])
