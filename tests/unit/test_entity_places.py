"""Which chunks a mention stands in: what the plain definition says, for any number of mentions and chunks."""

import time
from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from memory.language.entities import Mention
from memory.services.entities import _homes, _within


@dataclass(frozen=True)
class Slice:
    """Of a chunk, what its place in a document is known by."""

    start: int
    end: int


@st.composite
def documents(draw) -> tuple[list[Mention], list[Slice]]:
    """Overlapping slices without a gap, and mentions within them in order."""
    slices = [Slice(0, draw(st.integers(1, 9)))]
    for _ in range(draw(st.integers(0, 6))):
        last = slices[-1]
        start = draw(st.integers(last.start + 1, last.end))
        slices.append(Slice(start, max(last.end, start) + draw(st.integers(1, 9))))
    begin = st.integers(0, slices[-1].end - 1)
    pairs = draw(st.lists(begin.flatmap(lambda at: st.tuples(st.just(at), st.integers(at + 1, slices[-1].end)))))
    return [Mention("", "", start, end) for start, end in sorted(pairs)], slices


@given(documents())
def test_a_mention_is_in_the_first_chunk_that_holds_it_and_in_each_that_does(document):
    mentions, slices = document

    def holding(mention: Mention) -> list[Slice]:
        return [part for part in slices if part.start <= mention.start and mention.end <= part.end]

    for mention, home in zip(mentions, _homes(mentions, slices), strict=True):
        begun = [part for part in slices if part.start <= mention.start < part.end]
        assert home == (holding(mention) or begun)[0]
    for part, own in zip(slices, _within(mentions, slices), strict=True):
        assert own == [mention for mention in mentions if part in holding(mention)]


def test_a_hundred_times_the_chunks_is_not_a_hundred_times_the_work():
    mentions = [Mention("", "", at, at + 1) for at in range(40_000)]

    def seconds(chunks: int) -> float:
        size = len(mentions) // chunks
        slices = [Slice(at, at + size) for at in range(0, len(mentions), size)]
        took = []
        for _ in range(3):
            start = time.process_time()
            assert len(list(_homes(mentions, slices))) == sum(map(len, _within(mentions, slices))) == len(mentions)
            took.append(time.process_time() - start)
        return min(took)

    assert seconds(200) < 20 * seconds(2)
