"""manage.py explain_ann [--user U]"""

import numpy as np
from django.db import connections

from memory.embedding.spaces import default_space, dimension_of
from memory.embedding.vectors import half_vectors
from memory.errors import InvalidUserId
from memory.maintenance.command import Exit, ServiceCommand, usage
from memory.retrieval.plan import CHUNKS, explain_candidates, foreign_row_findings
from memory.rls import tenant_transaction
from memory.security import hmac_user


class Command(ServiceCommand):
    help = (
        "EXPLAIN (ANALYZE) the candidate search as the service's role, for one user or for the user with the most "
        "chunks. Exit 1 when the plan visits any other user's rows."
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
        findings = foreign_row_findings(plan, user_hash, owned)
        self.stderr.write(plan.text)
        code = Exit.FINDINGS if findings else Exit.DONE
        self.conclude({"owned_rows": owned[CHUNKS], **plan.summary(), "findings": findings}, code)

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
