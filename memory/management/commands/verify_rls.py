"""manage.py verify_rls"""

import json
import sys

from django.db import connections

from memory.maintenance.command import ServiceCommand
from memory.maintenance.rls_probe import probe_two_users
from memory.rls import verify_rls_isolation


class Command(ServiceCommand):
    help = (
        "Compare roles, tables, partitions, policies and grants with what the migrations make, and try two users "
        "against each other in transactions that are rolled back. Exit 1 with the list of findings."
    )
    requires_system_checks = []

    def handle(self, **options):
        findings = verify_rls_isolation(connections["default"])
        if not findings:
            findings = probe_two_users()
        self.stdout.write(json.dumps({"isolated": not findings, "findings": findings}, indent=2))
        if findings:
            sys.exit(1)
