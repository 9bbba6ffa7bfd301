"""Retrieval measured on test collections, through the service. The product does not import this package."""
