"""Staff's pages, one class a list: what each shows, in which order, and what may be done there.

Longer than 250 lines on purpose: a dozen lists, each a few lines, which are to be alike.
"""

from __future__ import annotations

import json

from django.contrib import admin, messages
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.contrib.admin.utils import unquote
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import path, reverse
from django.utils.html import format_html, format_html_join

from memory.errors import MemoryServiceError
from memory.models import (
    AuditLine,
    ChunkMeta,
    DataKeyMeta,
    DocumentMeta,
    ErasureMeta,
    MasterKey,
    MoveMeta,
    Rollout,
    StaffFlag,
    StaffSpace,
    TenantMeta,
    Worker,
)
from memory.rollout.flags import FLAGS, forget_flags, read_flags
from memory.staff import deeds
from memory.staff.bounded import rows_within
from memory.staff.forms import ErasureForm, FlagForm, QuarantineFilter, StateFilter
from memory.staff.pages import HASH_DIGITS, MetadataAdmin
from memory.staff.site import site

__all__ = ["site"]

# Of the chunks of one user, of which there may be a million.
BYTES_MS = 200
_BYTES = """
SELECT (SELECT coalesce(sum(text_cipher_bytes), 0)::bigint FROM memory_chunks_meta WHERE user_hash = %s),
       (SELECT coalesce(sum(meta_cipher_bytes), 0)::bigint FROM memory_documents_meta WHERE user_hash = %s)"""
OF_ONE_USER = (
    ("documents", "documentmeta"), ("chunks", "chunkmeta"), ("data keys", "datakeymeta"), ("moves", "movemeta"),
    ("erasures", "erasuremeta"),
)  # fmt: skip


@admin.register(TenantMeta, site=site)
class TenantAdmin(MetadataAdmin):
    keyset = ("user_hash",)
    list_display = (
        "short",
        "state",
        "document_count",
        "chunk_count",
        "active_space",
        "generation",
        "seal_count",
        "created_at",
    )
    filters = (StateFilter,)

    @admin.display(description="user hash")
    def short(self, row):
        return format_html('<span class="hash" title="{}">{}…</span>', row.user_hash, row.user_hash[:HASH_DIGITS])

    @admin.display(description="what there is of this user")
    def what_there_is(self, row):
        links = [
            (reverse(f"admin:memory_{model}_changelist") + f"?user_hash={row.user_hash}", name)
            for name, model in OF_ONE_USER
        ]
        log = reverse("admin:memory_auditline_changelist") + f"?subject={row.user_hash}"
        return format_html(
            '{} · <a href="{}">audit log</a>', format_html_join(" · ", '<a href="{}">{}</a>', links), log
        )

    @admin.display(description="sealed bytes, of texts and metadata")
    def sealed_bytes(self, row):
        found = rows_within(BYTES_MS, _BYTES, [row.user_hash] * 2)
        return "too many to add up" if found is None else f"{found[0][0]:,} and {found[0][1]:,}"

    @admin.display(description="what may be done")
    def what_may_be_done(self, row):
        erase = reverse("admin:memory_tenantmeta_erase", args=[row.user_hash])
        return format_html('<a class="danger" href="{}">erase…</a>', erase)

    def get_readonly_fields(self, request, obj=None):
        may_erase = request.user.has_perm("memory.erase_tenant")
        return ("sealed_bytes", "what_there_is", *(["what_may_be_done"] if may_erase else []))

    def get_urls(self):
        erase = self.admin_site.admin_view(self.erase)
        return [path("<str:user_hash>/erase/", erase, name="memory_tenantmeta_erase"), *super().get_urls()]

    def erase(self, request, user_hash):
        """Everything of one user, for good, once the first digits of his hash were typed."""
        if not request.user.has_perm("memory.erase_tenant"):
            raise PermissionDenied
        tenant = self.get_object(request, unquote(user_hash))
        if tenant is None:
            raise Http404
        form = ErasureForm(request.POST if request.method == "POST" else None)
        if request.method == "POST" and form.is_valid():
            if form.cleaned_data["typed"] != tenant.user_hash[:8]:
                form.add_error("typed", "These are not the first 8 digits of this user's hash. Nothing was erased.")
            else:
                try:
                    erased = deeds.erase(tenant.user_hash, actor=request.user.get_username())
                except MemoryServiceError as exc:
                    messages.error(request, f"Not erased, or not to the end: {exc.detail} Erase again to go on.")
                else:
                    gone = f"{erased.erased_documents:,} documents, {erased.erased_chunks:,} chunks, and the keys"
                    messages.success(request, f"Erased: {gone}.")
                return HttpResponseRedirect(reverse("admin:memory_tenantmeta_changelist"))
        context = {**self.admin_site.each_context(request), "title": "Erase a tenant", "tenant": tenant, "form": form}
        return TemplateResponse(request, "admin/memory/erase.html", {**context, "opts": self.opts})


@admin.register(DocumentMeta, site=site)
class DocumentAdmin(MetadataAdmin):
    keyset = ("user_hash", "doc_id")
    list_display = (
        "doc_id",
        "user",
        "source",
        "thread_id",
        "chunk_count",
        "char_count",
        "created_at",
        "expires_at",
        "updated_at",
    )


@admin.register(ChunkMeta, site=site)
class ChunkAdmin(MetadataAdmin):
    keyset = ("user_hash", "id", "space")
    list_display = (
        "doc_id",
        "chunk_index",
        "user",
        "space",
        "source",
        "text_cipher_bytes",
        "quarantined_at",
        "created_at",
    )
    filters = (QuarantineFilter,)
    actions = ("quarantine", "release")

    def has_quarantine_permission(self, request):
        return request.user.has_perm("memory.quarantine_chunk")

    @admin.action(description="Quarantine: no search finds them", permissions=["quarantine"])
    def quarantine(self, request, queryset):
        self._quarantine(request, is_quarantined=True)

    @admin.action(description="Release from quarantine", permissions=["quarantine"])
    def release(self, request, queryset):
        self._quarantine(request, is_quarantined=False)

    def _quarantine(self, request, *, is_quarantined: bool) -> None:
        # Not by `queryset`, which looks for `key`, and no index has that; and never more than stood on the page.
        named = request.POST.getlist(ACTION_CHECKBOX_NAME)[: self.list_per_page]
        found = [row for key in named if (row := self.get_object(request, key)) is not None]
        try:
            changed = deeds.quarantine(
                [(row.user_hash, row.id) for row in found],
                is_quarantined=is_quarantined,
                actor=request.user.get_username(),
            )
        except MemoryServiceError as exc:
            messages.error(request, f"Not all of it was done: {exc.detail}")
        else:
            messages.success(request, f"{'Quarantined' if is_quarantined else 'Released'}: {changed} chunks.")


@admin.register(DataKeyMeta, site=site)
class DataKeyAdmin(MetadataAdmin):
    keyset = ("user_hash", "generation")
    list_display = ("generation", "user", "key_id", "seal_count", "created_at")


@admin.register(MasterKey, site=site)
class MasterKeyAdmin(MetadataAdmin):
    keyset = ("key_id",)
    list_display = ("key_id", "fingerprint", "promoted_at", "unused_since", "retired_at")
    narrowed_by = ()


@admin.register(Worker, site=site)
class WorkerAdmin(MetadataAdmin):
    keyset = ("worker_id",)
    list_display = (
        "worker_id",
        "host",
        "pid",
        "version",
        "started_at",
        "seen_at",
        "active_master_key",
        "active_hmac_key",
    )
    narrowed_by = ()


@admin.register(StaffSpace, site=site)
class SpaceAdmin(MetadataAdmin):
    keyset = ("space",)
    list_display = ("space", "edition", "is_default", "fingerprint", "created_at")
    narrowed_by = ()


@admin.register(MoveMeta, site=site)
class MoveAdmin(MetadataAdmin):
    keyset = ("user_hash",)
    list_display = ("user", "state", "from_space", "space", "started_at", "switched_at")


@admin.register(ErasureMeta, site=site)
class ErasureAdmin(MetadataAdmin):
    keyset = ("user_hash", "id")
    list_display = ("erased_at", "user", "erased_documents", "erased_chunks", "unrecoverable_after")


@admin.register(Rollout, site=site)
class RolloutAdmin(MetadataAdmin):
    keyset, keyset_descends = ("began", "id"), True
    list_display = ("began", "state", "stage", "percent", "verdict", "ended", "evidence")
    narrowed_by = ()

    def named_by(self):
        return ("id",)


@admin.register(AuditLine, site=site)
class AuditAdmin(MetadataAdmin):
    keyset, keyset_descends = ("id",), True
    list_display = ("id", "at", "actor", "action", "subject", "detail")
    fields = ("id", "at", "actor", "action", "subject", "detail", "previous", "own")
    readonly_fields = ("previous", "own")
    narrowed_by = ("subject", "actor", "action")

    @admin.display(description="hash of the line before")
    def previous(self, row):
        return bytes(row.previous_hash).hex() or "-"

    @admin.display(description="hash")
    def own(self, row):
        return bytes(row.hash).hex()


@admin.register(StaffFlag, site=site)
class FlagAdmin(MetadataAdmin):
    keyset = ("name",)
    narrowed_by = ()

    def changelist_view(self, request, extra_context=None):
        """Every flag, whether or not it was ever set, and a form at each."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        may_set = request.user.has_perm("memory.set_flag")
        if request.method == "POST":
            if not may_set:
                raise PermissionDenied
            self._set(request, FlagForm(request.POST))
            return HttpResponseRedirect(reverse("admin:memory_staffflag_changelist"))
        changed = {row.name: row.updated_at for row in self.get_queryset(request)}
        present = read_flags()
        flags = [
            {"name": name, "value": json.dumps(present[name]), "says": kind.says, "changed": changed.get(name)}
            for name, kind in FLAGS.items()
        ]
        context = {**self.admin_site.each_context(request), "title": "Flags", "flags": flags, "may_set": may_set}
        return TemplateResponse(request, "admin/memory/flags.html", {**context, "opts": self.opts})

    def _set(self, request, form) -> None:
        if not form.is_valid():
            messages.error(request, "There is no such flag.")
            return
        name, text = form.cleaned_data["name"], form.cleaned_data["value"].strip()
        try:
            value = json.loads(text) if text else None
        except ValueError:
            value = text
        try:
            deeds.change_flag(name, value, actor=request.user.get_username())
        except ValueError as exc:
            messages.error(request, str(exc))
        else:
            forget_flags()
            messages.success(request, f"{name}: {text or 'as the setting says'}. On all workers within a second.")
