"""Speakers: their names as blind ids, and which of them a question is about.

What is stored beside a chunk is never a name but an HMAC of it under the user's own key, of another kind than that of
words. The known speakers are those of the documents there are (`sealing/profile.py`); here they are looked up by the
blind ids of their full names and of the names' parts, which stay in memory with the user's search key.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache

from memory.lexical.terms import Blinder, folded, folded_words, stop_words
from memory.sealing.profile import TenantProfile
from memory.sealing.user_keys import Purpose, SearchKey

# What is read of a question.
READ_MAX_CHARS = 2_000
# A name with more words is known by its parts alone.
NAME_WORDS_MAX = 8
# Between two words of one name: a space, a hyphen, an apostrophe, "J. R. "
_GAP_MAX_CHARS = 3
_POSSESSIVE = re.compile(r"['’]s\b")

# Who says one of these asks about himself, whoever else he names.
_ASKER = frozenset(("i", "me", "my", "we", "our"))
# Common words that are names too, and titles, which are no part of one. Stop words, such as "will", are added.
_AMBIGUOUS = """
january february march april may june july august september october november december summer autumn winter
monday tuesday wednesday thursday friday saturday sunday mr mrs ms miss dr prof sir
angel art bill bishop brook buck chance chase christian cook drew duke earl early faith grace grant guy holly honey
hope hunter joy king lily love mark mercy page patience pierce price prince rich rob rock rose skip sky stone storm
sue sunny victory young
"""


@cache
def _common_words() -> frozenset[str]:
    return stop_words("english") | frozenset(_AMBIGUOUS.split())


def name_words(name: str) -> list[str]:
    """The words of a name, folded: by these two spellings are one. All of it, where it has no letter or digit."""
    return [word for _, _, word in folded_words(name)] or [folded(name)]


def speaker_id(key: SearchKey, name: str) -> int:
    """The blind id of a full name: 32 bits, signed, of an HMAC under the search key's sub-key for speakers."""
    return _name_id(Blinder(key.subkey(Purpose.SPEAKERS)), name_words(name))


def _name_id(blinder: Blinder, words: list[str]) -> int:
    return blinder.id("name:" + " ".join(words))


def _part_id(blinder: Blinder, word: str) -> int:
    return blinder.id("part:" + word)


@dataclass(frozen=True)
class KnownSpeakers:
    """One user's speakers, by the blind ids of their names and of their names' parts. Holds no name.

    `longest`: the words of the longest name, NAME_WORDS_MAX at most.
    """

    ids: frozenset[int] = frozenset()
    longest: int = 0
    by_part: dict[int, frozenset[int]] = field(default_factory=dict)


def known_speakers(profile: TenantProfile) -> KnownSpeakers:
    """The speakers of `profile`, made once a profile. Raises KeyUnavailable, DecryptionFailed for its search key."""
    return profile.search_key.cached(Purpose.SPEAKERS, lambda key: _known(profile, Blinder(key)))


def _known(profile: TenantProfile, blinder: Blinder) -> KnownSpeakers:
    if profile.has_too_many_speakers:
        return KnownSpeakers()
    ids: set[int] = set()
    by_part: dict[int, set[int]] = defaultdict(set)
    longest = 0
    for name in profile.speaker_names():
        words = name_words(name)
        # Not the id that is stored: that one may be of the space before.
        speaker = _name_id(blinder, words)
        ids.add(speaker)
        longest = max(longest, min(len(words), NAME_WORDS_MAX))
        for word in words:
            by_part[_part_id(blinder, word)].add(speaker)
    return KnownSpeakers(frozenset(ids), longest, {part: frozenset(speakers) for part, speakers in by_part.items()})


@dataclass(frozen=True)
class AboutSpeaker:
    """A question about one known speaker: which, and the question without the name."""

    speaker: int
    rest: str


def about_speaker(profile: TenantProfile, question: str) -> AboutSpeaker | None:
    """The one known speaker that `question` is about; None where it names none, or several, or says I, me, my, we, our.

    A speaker is named by the full name, however it is written, or by a part of it that is no common word and
    is written as a name, with a capital. A name that is a common word itself needs the capital too, and must not begin
    the question. Nothing is computed for a user without speakers.
    """
    if not profile.speakers:
        return None
    known = known_speakers(profile)
    words = list(folded_words(question[:READ_MAX_CHARS]))
    if not known.ids or any(word in _ASKER for _, _, word in words):
        return None
    blinder = Blinder(profile.search_key.subkey(Purpose.SPEAKERS))
    named: set[int] = set()
    spans: list[tuple[int, int]] = []
    for start, end, speakers in _mentions(question, words, known, blinder):
        named |= speakers
        spans.append((start, end))
    if len(named) != 1:
        return None
    return AboutSpeaker(next(iter(named)), _without(question, spans) or question)


def _mentions(
    question: str, words: list[tuple[int, int, str]], known: KnownSpeakers, blinder: Blinder
) -> Iterator[tuple[int, int, frozenset[int]]]:
    """(start, end, whom it may mean) of each name in `question`, the longest first at each place."""
    at = 0
    while at < len(words):
        for count in range(min(known.longest, len(words) - at), 0, -1):
            run = words[at : at + count]
            if any(after[0] - before[1] > _GAP_MAX_CHARS for before, after in zip(run, run[1:], strict=False)):
                continue
            speakers = _meant(question, run, known, blinder)
            if speakers:
                yield run[0][0], run[-1][1], speakers
                at += count
                break
        else:
            at += 1


def _meant(
    question: str, run: list[tuple[int, int, str]], known: KnownSpeakers, blinder: Blinder
) -> frozenset[int]:  # fmt: skip
    start, _, first = run[0]
    full = _name_id(blinder, [word for _, _, word in run])
    is_common = len(run) == 1 and first in _common_words()
    is_capital = question[start].isupper()
    if full in known.ids:
        begins = not question[:start].strip(" \"'“‘«(")
        return frozenset() if is_common and (begins or not is_capital) else frozenset((full,))
    if len(run) == 1 and is_capital and not is_common and len(first) > 1:
        return known.by_part.get(_part_id(blinder, first), frozenset())
    return frozenset()


def _without(question: str, spans: list[tuple[int, int]]) -> str:
    """`question` without the characters of `spans` and the possessive behind each; blanks are made one."""
    kept, at = [], 0
    for start, end in spans:
        kept.append(question[at:start])
        possessive = _POSSESSIVE.match(question, end)
        at = possessive.end() if possessive else end
    kept.append(question[at:])
    rest = " ".join("".join(kept).split())
    return rest if any(character.isalnum() for character in rest) else ""
