"""The Django app. The package itself needs no Django, and starting a site loads nothing of it."""

from django.apps import AppConfig


class RerankerAppConfig(AppConfig):
    name = "reranker"
