"""POST /memory/entities"""

from __future__ import annotations

from rest_framework.response import Response

from memory.api.permissions import HasScope
from memory.api.responses import entities as responses
from memory.api.serializers.entities import MemoryEntityRequest
from memory.api.views.base import MemoryView
from memory.services.entities import entities_in_memory, entities_in_text


class EntitiesView(MemoryView):
    """Name who and what is mentioned. Writing, whatever it is asked about: it stores what it finds."""

    operation = "entities"
    deadline_setting = "MEMORY_LANGUAGE_SECONDS"
    permission_classes = [HasScope.write]

    def post(self, request):
        asked = MemoryEntityRequest.read(request.data)
        if asked["scope"] is None:
            found = entities_in_text(asked["text"], asked["labels"])
        else:
            found = entities_in_memory(asked["scope"], asked["labels"])
        return Response(responses.found_entities(found))
