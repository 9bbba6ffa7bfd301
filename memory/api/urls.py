"""The memory endpoints, below /api/v1."""

from django.urls import path

from memory.api import views

urlpatterns = [
    path("auth/check", views.AuthCheckView.as_view(), name="auth-check"),
    path("memory/index", views.IndexView.as_view(), name="memory-index"),
    path("memory/query", views.QueryView.as_view(), name="memory-query"),
    path("memory/documents/<path:doc_id>", views.DocumentView.as_view(), name="memory-document"),
]
