"""What of a text is prose: not headings, tables of contents, code and rules, which no sentence is to be quoted from."""

from __future__ import annotations

import re
from bisect import bisect_left

_LINE = re.compile(r"[^\n]*\n?")
_FENCE = re.compile(r"\s{0,3}(?:```|~~~)\s*(?P<info>[^`\s]*)")
_MARKED_HEADING = re.compile(r"\s{0,3}#{1,6}\s")
_UNDERLINE = re.compile(r"\s{0,3}(?:={3,}|-{3,})\s*$")
# A rule, and the line between a table's head and its rows.
_RULE = re.compile(r"[\s|:+*=_-]{3,}$")
_ENDS_A_SENTENCE = re.compile(r"[.!?…:;,。！？][\"'”’»)\]*_]*\s*$")
# A table of contents: leaders before a page's number, or nothing but a link.
_LEADERS = re.compile(r"(?:\.\s?){4,}\s*\w{1,5}\s*$|…{2,}\s*\w{1,5}\s*$")
_LINK_ALONE = re.compile(r"\s*(?:[-*+]|\d{1,3}[.)])?\s*\[[^\]]{1,200}\]\([^)\s]{1,500}\)\s*$")
_NUMBERED_ENTRY = re.compile(r"\s*\d{1,3}(?:\.\d{1,3}){0,4}\.?\s+\S.{0,100}?\s\d{1,4}\s*$")
_CODE = re.compile(
    r"""\s*(?:
        [{}\[\]();,\s]+ $                                           # brackets alone
        | .* (?: [{}] | => | \(\) | \)\s*; ) \s* $                    # ends as a statement does
        | (?: \{ .* \} | \[\s* [\d"'{\[] .* \] ) [,;]? \s* $          # JSON
        | </?\w [^<>]{0,200} > .*                                    # markup
        | (?: >>>\s | \$\s | \#! | // | /\* ) .*                     # a prompt, a comment
        | @\w+ (?: \(.* )? $                                         # a decorator
        | (?: def | class | async\s+def | fn | func | function ) \s+ \w+ \s* [(:{<] .*
        | import \s+ [\w.]+ (?: \s+ as \s+ \w+ )? ;? $
        | from \s+ [\w.]+ \s+ import \s .*
        | (?: const | let | var | public | private | static | export ) \s+ [\w<>\[\]]+ .* = .*
        | [\w.\[\]"']{1,80} \s* (?: [-+*/|&]?= | := ) (?!=) .*       # an assignment
        | (?: SELECT | INSERT | UPDATE | DELETE ) \s .* \b (?: FROM | INTO | SET ) \b
        | (?: CREATE | ALTER | DROP ) \s .* \b (?: TABLE | INDEX | VIEW ) \b
    )""",
    re.VERBOSE,
)
# A line that is looked at closer is no longer than this: prose is, code seldom.
_LINE_MAX_CHARS = 300
HEADING_MAX_CHARS = 80


class Prose:
    """Which slices of a text may be quoted."""

    def __init__(self, text: str):
        self._gaps = _gaps(text)
        self._starts = [start for start, _ in self._gaps]

    def holds(self, start: int, end: int) -> bool:
        """Whether nothing of the slice, not empty, is in a heading, table of contents, code or rule."""
        at = bisect_left(self._starts, end) - 1
        return at < 0 or self._gaps[at][1] <= start


def _gaps(text: str) -> list[tuple[int, int]]:
    """The slices that are no prose, ascending, line by line and without the line breaks."""
    lines = [found for found in _LINE.finditer(text) if found[0]]
    bodies = [found[0].rstrip("\r\n") for found in lines]
    fenced = _fenced(bodies)
    return [
        (line.start(), line.start() + len(body))
        for number, (line, body) in enumerate(zip(lines, bodies, strict=True))
        if body.strip() and (number in fenced or _is_gap(bodies, number))
    ]


def _fenced(bodies: list[str]) -> set[int]:
    """The lines of fenced code, with their fences.

    A passage may be cut within some: a last fence without a partner opens code where it names a language.
    """
    fences = [(number, found["info"]) for number, body in enumerate(bodies) if (found := _FENCE.match(body))]
    fenced = {number for number, _ in fences}
    while fences:
        opening, info = fences.pop(0)
        if fences:
            closing, _ = fences.pop(0)
            fenced.update(range(opening, closing))
        elif info:
            fenced.update(range(opening, len(bodies)))
    return fenced


def _is_gap(bodies: list[str], number: int) -> bool:
    body = bodies[number]
    if len(body) > _LINE_MAX_CHARS:
        return False
    if _MARKED_HEADING.match(body) or _RULE.match(body) or _LEADERS.search(body) or _LINK_ALONE.match(body):
        return True
    before, after = (bodies[at] if 0 <= at < len(bodies) else "" for at in (number - 1, number + 1))
    if _UNDERLINE.match(after) and not before.strip():
        return True
    if _NUMBERED_ENTRY.match(body) and (_NUMBERED_ENTRY.match(before) or _NUMBERED_ENTRY.match(after)):
        return True
    return bool(_CODE.match(body)) or _is_bare_heading(bodies, number)


def _is_bare_heading(bodies: list[str], number: int) -> bool:
    """A short line of its own that ends no sentence, above a paragraph that does."""
    body = bodies[number]
    if len(body) > HEADING_MAX_CHARS or _ENDS_A_SENTENCE.search(body) or (number and bodies[number - 1].strip()):
        return False
    if number + 2 >= len(bodies) or bodies[number + 1].strip():
        return False
    below = next((text for text in bodies[number + 2 : number + 5] if text.strip()), "")
    return len(below) > HEADING_MAX_CHARS or bool(_ENDS_A_SENTENCE.search(below))
