"""A response body said once: its members render what a service gave, and are the schema that describes it.

A member has a name, a shape, and a way to its value:

    PASSAGE = About(Candidate).body(
        "MemoryResult",
        "One passage.",
        Member("chunk_id", uuid(), lambda candidate: str(candidate.chunk_id)),
        Member("text", string("The passage.")),
        Member("citation", CITATION, cited),
    )

`PASSAGE.render(candidate)` is the JSON object and `PASSAGE.schema()` its JSON Schema, with the same names in the same
order. A shape is a JSON Schema, of a value that is JSON already, or a Shaped, which renders the value too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from operator import attrgetter, itemgetter
from typing import Any, Generic, Protocol, TypeVar

from memory.api.shapes import Schema, array, obj, or_null, ref

T = TypeVar("T")
# Of a member that is never left out: no value is equal to it.
_ALWAYS = object()


class Shaped(Protocol):
    """A shape that renders what it describes."""

    def render(self, value: Any, /) -> Any:
        """`value` as JSON."""

    def shape(self) -> Schema:
        """The schema where it is used: that of a component is a reference."""

    def bodies(self) -> Iterator[ResponseBody]:
        """Every body in it, itself included."""


def itself(subject: T) -> T:
    """The way to a value that is the whole subject, such as for a body within a body."""
    return subject


class Member(Generic[T]):
    """One member of a body about a `T`.

    Without `value` it is the attribute of that name, or the entry where the subject is a dict. Where the value equals
    `unless` it is not rendered, and the member is left out.
    """

    def __init__(
        self, name: str, shape: Schema | Shaped, value: Callable[[T], Any] | None = None, *, unless: Any = _ALWAYS
    ):
        self.name = name
        self.shape = shape
        self.unless = unless
        self._value = value

    @property
    def is_optional(self) -> bool:
        """Whether there are bodies without it."""
        return self.unless is not _ALWAYS

    @property
    def schema(self) -> Schema:
        """Its JSON Schema in the body's."""
        return self.shape if isinstance(self.shape, dict) else self.shape.shape()

    def way(self, about: type[T]) -> Callable[[T], Any]:
        """What gives its JSON, asked about a subject of class `about`.

        Raises TypeError where `about` has no such attribute.
        """
        value = self._value or _by_name(self.name, about)
        if isinstance(self.shape, dict):
            return value
        render = self.shape.render
        if value is itself:
            return render
        if self.is_optional:
            return lambda subject: found if (found := value(subject)) == self.unless else render(found)
        return lambda subject: render(value(subject))


class ResponseBody(Generic[T]):
    """A JSON object about a `T`, as `About` makes them; `component` is empty for a part."""

    def __init__(self, component: str, description: str, about: type[T], *members: Member[T]):
        self.component = component
        self.description = description
        self.members = members
        self._optional = [member for member in members if member.is_optional]
        names = [member.name for member in members]
        if len(set(names)) != len(names):
            raise TypeError(f"members need names, each its own: {', '.join(names)}")
        self._ways = [(member.name, member.way(about)) for member in members]

    def render(self, subject: T, /) -> dict[str, Any]:
        """The body about `subject`, its members in their order."""
        body = {name: way(subject) for name, way in self._ways}
        for member in self._optional:
            if body[member.name] == member.unless:
                del body[member.name]
        return body

    def schema(self) -> Schema:
        """The JSON Schema of what `render` gives."""
        optional = tuple(member.name for member in self._optional)
        return obj(self.description, {member.name: member.schema for member in self.members}, optional=optional)

    def shape(self) -> Schema:
        return ref(self.component) if self.component else self.schema()

    def bodies(self) -> Iterator[ResponseBody]:
        yield self
        for member in self.members:
            if not isinstance(member.shape, dict):
                yield from member.shape.bodies()


@dataclass(frozen=True)
class About(Generic[T]):
    """The class that a body is about, said first: so the ways of its members are type-checked against it."""

    subject: type[T]

    def body(self, component: str, description: str, *members: Member[T]) -> ResponseBody[T]:
        """A body that is the component of that name in the OpenAPI document."""
        return ResponseBody(component, description, self.subject, *members)

    def part(self, description: str, *members: Member[T]) -> ResponseBody[T]:
        """A body within another, which the document describes in its place."""
        return ResponseBody("", description, self.subject, *members)


class ListOf(Generic[T]):
    """A JSON list of `body`s; `limits` are keywords of its schema."""

    def __init__(self, body: ResponseBody[T], description: str = "", **limits: Any):
        self._body = body
        self._shape = array(body.shape(), description, **limits)

    def render(self, subjects: Iterable[T], /) -> list[dict[str, Any]]:
        render = self._body.render
        return [render(subject) for subject in subjects]

    def shape(self) -> Schema:
        return self._shape

    def bodies(self) -> Iterator[ResponseBody]:
        return self._body.bodies()


class OrNull(Generic[T]):
    """A `body`, or null for None; `description` is in place of the body's own."""

    def __init__(self, body: ResponseBody[T], description: str = ""):
        self._body = body
        self._shape = or_null(body.shape()) | ({"description": description} if description else {})

    def render(self, subject: T | None, /) -> dict[str, Any] | None:
        return None if subject is None else self._body.render(subject)

    def shape(self) -> Schema:
        return self._shape

    def bodies(self) -> Iterator[ResponseBody]:
        return self._body.bodies()


def _by_name(name: str, about: type) -> Callable[[Any], Any]:
    if issubclass(about, dict):
        return itemgetter(name)
    # A class has only its own annotations.
    if not hasattr(about, name) and not any(name in vars(each).get("__annotations__", {}) for each in about.__mro__):
        raise TypeError(f"{about.__name__} has no {name}")
    return attrgetter(name)
