"""The memory endpoints, below /api/v1."""

from django.urls import path, register_converter
from django.urls.converters import PathConverter

from memory.api.views.auth_check import AuthCheckView
from memory.api.views.docs import DocsFileView, DocsView, SchemaView
from memory.api.views.documents import DocumentsView, DocumentView
from memory.api.views.entities import EntitiesView
from memory.api.views.erase import EraseView
from memory.api.views.export import ExportView
from memory.api.views.index import IndexView
from memory.api.views.query import QueryView
from memory.api.views.stats import StatsView
from memory.api.views.stream import StreamView
from memory.api.views.summarize import SummarizeView


class AnyPathConverter(PathConverter):
    """As `path`, line breaks included, so that an impossible id is refused by the view and not by the router."""

    regex = "(?s:.+)"


register_converter(AnyPathConverter, "anypath")

urlpatterns = [
    path("schema", SchemaView.as_view(), name="schema"),
    path("docs", DocsView.as_view(), name="docs"),
    path("docs/<str:name>", DocsFileView.as_view(), name="docs-file"),
    path("auth/check", AuthCheckView.as_view(), name="auth-check"),
    path("memory/index", IndexView.as_view(), name="memory-index"),
    path("memory/query", QueryView.as_view(), name="memory-query"),
    path("memory/summarize", SummarizeView.as_view(), name="memory-summarize"),
    path("memory/entities", EntitiesView.as_view(), name="memory-entities"),
    path("memory/documents", DocumentsView.as_view(), name="memory-documents"),
    path("memory/documents/<anypath:doc_id>", DocumentView.as_view(), name="memory-document"),
    path("memory/export", ExportView.as_view(), name="memory-export"),
    path("memory/erase", EraseView.as_view(), name="memory-erase"),
    path("memory/stats", StatsView.as_view(), name="memory-stats"),
    path("stream", StreamView.as_view(), name="stream"),
]
