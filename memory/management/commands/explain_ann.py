"""manage.py explain_ann [--user U]"""

from datetime import UTC, datetime

import numpy as np
from django.db import connections

from memory.embedding.spaces import default_space, dimension_of
from memory.embedding.vectors import half_vectors
from memory.errors import InvalidUserId
from memory.maintenance.command import Exit, ServiceCommand, usage
from memory.retrieval.filters import Filters
from memory.retrieval.plan import CHUNKS, Plan, explain_candidates, foreign_row_findings
from memory.rls import tenant_transaction
from memory.security import hmac_user

# A filter that the planner has to reckon with and that leaves nothing out.
_EVERYTHING = Filters(since=datetime(1, 1, 2, tzinfo=UTC))


class Command(ServiceCommand):
    help = (
        "EXPLAIN (ANALYZE) the candidate search as the service's role, without filters and under one that everything "
        "passes, for one user or for the user with the most chunks. Exit 1 when a plan visits any other user's rows, "
        "or does not use the index that the user has of his own."
    )

    def add_arguments(self, parser):
        parser.add_argument("--user", help="a user id; default: the user with the most chunks")
        parser.add_argument("--candidates", type=int, default=24)

    def handle(self, *, user, candidates, **options):
        if candidates < 1:
            raise usage("--candidates must be at least 1")
        user_hash = self._user_hash(user)
        with tenant_transaction(user_hash) as tx:
            state = tx.state()
        space = default_space() if state is None else state.active_space
        dimension = dimension_of(space)
        vector = half_vectors(np.full((1, dimension), dimension**-0.5, np.float32))[0]
        plan, owned = explain_candidates(user_hash, space, vector, candidates)
        filtered, _ = explain_candidates(user_hash, space, vector, candidates, _EVERYTHING)
        findings = _findings(plan, user_hash, owned)
        findings += [f"filtered: {finding}" for finding in _findings(filtered, user_hash, owned)]
        self.stderr.write(plan.text)
        code = Exit.FINDINGS if findings else Exit.DONE
        summary = {"owned_rows": owned[CHUNKS], **plan.summary(), "filtered": filtered.summary()}
        self.conclude({**summary, "findings": findings}, code)

    def _user_hash(self, user: str | None) -> str:
        if user is not None:
            try:
                return hmac_user(user)
            except InvalidUserId as exc:
                raise usage(exc.detail) from None
        with connections["maint"].cursor() as cursor:
            cursor.execute("SELECT user_hash FROM memory_tenants ORDER BY chunk_count DESC, user_hash LIMIT 1")
            row = cursor.fetchone()
        if row is None:
            raise usage("nobody has indexed anything yet")
        return row[0]


def _findings(plan: Plan, user_hash: str, owned_rows: dict[str, int]) -> list[str]:
    return [*foreign_row_findings(plan, user_hash, owned_rows), *plan.own_index_findings(user_hash)]
