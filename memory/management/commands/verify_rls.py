"""manage.py verify_rls"""

from django.db import connections

from memory.maintenance.command import Exit, ServiceCommand
from memory.maintenance.rls_probe import probe_two_users
from memory.rls import verify_rls_isolation


class Command(ServiceCommand):
    help = (
        "Compare roles, tables, partitions, policies and grants with what the migrations make, and try two users "
        "against each other in transactions that are rolled back. Exit 1 with the list of findings."
    )

    def handle(self, **options):
        findings = verify_rls_isolation(connections["default"])
        if not findings:
            findings = probe_two_users()
        code = Exit.FINDINGS if findings else Exit.DONE
        self.conclude({"isolated": not findings, "findings": findings}, code, indent=2)
