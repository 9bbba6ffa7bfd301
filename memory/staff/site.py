"""The site of staff's pages: its first page, the search by user id, who may log in and how that is told."""

from __future__ import annotations

import threading

from django.contrib import messages
from django.contrib.admin import AdminSite
from django.contrib.auth.signals import user_logged_in
from django.contrib.auth.views import PasswordChangeView
from django.core.exceptions import PermissionDenied
from django.http import HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import path, reverse

from memory.errors import InvalidUserId
from memory.staff import deeds
from memory.staff.dashboard import dashboard
from memory.staff.forms import FindForm, OwnPasswordForm

_weighing = threading.BoundedSemaphore(1)


class StaffSite(AdminSite):
    """Django's admin, of metadata alone."""

    site_header = site_title = "R1 Memory & Context"
    index_title = "Overview"
    site_url = None
    index_template = "admin/memory/index.html"

    def get_urls(self):
        return [path("find/", self.admin_view(self.find), name="find"), *super().get_urls()]

    def index(self, request, extra_context=None):
        """The dashboard, above the list of what there is."""
        shown = {"dashboard": dashboard(), "find_form": FindForm(), **(extra_context or {})}
        return super().index(request, shown)

    def login(self, request, extra_context=None):
        """One password at a time in a process: to weigh one takes a third of a second of a core, whoever sends it."""
        if request.method != "POST":
            return super().login(request, extra_context)
        if not _weighing.acquire(blocking=False):
            return HttpResponse(
                "Somebody else is logging in at this moment. Try again.\n", status=429, headers={"Retry-After": "1"},
                content_type="text/plain; charset=utf-8",
            )  # fmt: skip
        try:
            return super().login(request, extra_context)
        finally:
            _weighing.release()

    def password_change(self, request, extra_context=None):
        """One's own password, and no other column of one's row, which r1_staff may not write."""
        request.current_app = self.name
        view = PasswordChangeView.as_view(
            form_class=OwnPasswordForm,
            success_url=reverse("admin:password_change_done"),
            template_name="registration/password_change_form.html",
            extra_context={**self.each_context(request), **(extra_context or {})},
        )
        return view(request)

    def find(self, request):
        """POST a user id: on to the page of his hash. The id goes no further than this."""
        if not request.user.has_perm("memory.find_tenant"):
            raise PermissionDenied
        form = FindForm(request.POST if request.method == "POST" else None)
        if request.method == "POST" and form.is_valid():
            try:
                user_hash = deeds.find(form.cleaned_data["user_id"], actor=request.user.get_username())
            except InvalidUserId:
                messages.error(
                    request, "That is no user id: 1 to 128 characters in NFC, none of them a control character."
                )
                return HttpResponseRedirect(reverse("admin:find"))
            return HttpResponseRedirect(reverse("admin:memory_tenantmeta_changelist") + f"?user_hash={user_hash}")
        if request.method == "POST":
            messages.error(request, "A user id has 1 to 128 characters.")
            return HttpResponseRedirect(reverse("admin:find"))
        context = {**self.each_context(request), "title": "Find a tenant by user id", "form": form}
        return TemplateResponse(request, "admin/memory/find.html", context)


def _log_in(sender, request, user, **kwargs):
    deeds.log_in(user.get_username())


user_logged_in.connect(_log_in, dispatch_uid="memory.staff_login")

site = StaffSite(name="admin")
