"""Documents for tests, made the way the product makes them: chunked, embedded, sealed and stored under RLS."""

from __future__ import annotations

import factory

from memory.indexing.seal import DocumentDraft
from memory.rls import bind_tenant
from memory.services.index import IndexedDocument, index_document
from tests.people import Person


class DocumentFactory(factory.Factory):
    """`DocumentFactory(person=alice, text=...)` remembers a document for `person` and gives its IndexedDocument."""

    class Meta:
        model = DocumentDraft

    doc_id = factory.Sequence(lambda n: f"notes/{n}")
    source = "notes"
    text = factory.Sequence(lambda n: f"On day {n} the keeper wrote down that the sea was calm.")

    @classmethod
    def _create(cls, model_class, *args, person: Person, **fields) -> IndexedDocument:
        with bind_tenant(person.user_hash):
            return index_document(person.user_id, model_class(**fields))
