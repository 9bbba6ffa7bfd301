"""Thin views, one file a resource: a serializer in, one service, an answer out."""
