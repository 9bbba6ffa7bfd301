"""What every list and every page of a row has in common: nothing is added, changed or deleted there by a form."""

from __future__ import annotations

from django.contrib import admin
from django.core.exceptions import ValidationError
from django.http import Http404
from django.utils.html import format_html

from memory.staff.keyset import KeysetChangeList

ROWS_PER_PAGE = 50
HASH_DIGITS = 16


class MetadataAdmin(admin.ModelAdmin):
    """One model, read-only. `keyset`: the columns of the index in whose order its list is, the first ones first."""

    keyset: tuple[str, ...] = ()
    keyset_descends = False
    actions_on_top = True
    list_per_page = ROWS_PER_PAGE
    sortable_by = ()
    # Lists of few rows within many: each has an index of its own.
    filters: tuple[type[admin.SimpleListFilter], ...] = ()
    # Of which columns a list may be narrowed down by address.
    narrowed_by: tuple[str, ...] = ("user_hash",)

    def get_list_filter(self, request):
        return self.filters

    def get_changelist(self, request, **kwargs):
        return KeysetChangeList

    def has_add_permission(self, request):
        return False

    def has_change_permission(self, request, obj=None):
        return False

    def has_delete_permission(self, request, obj=None):
        return False

    def history_view(self, request, object_id, extra_context=None):
        """What was done about a row stands in the audit log; Django's own log is not kept."""
        raise Http404

    def lookup_allowed(self, lookup, value, request):
        is_known = lookup in self.narrowed_by or lookup in {each.parameter_name for each in self.filters}
        return is_known and "\0" not in value

    def get_object(self, request, object_id, from_field=None):
        """The row of that `key`, by the columns that it is made of, which are indexed; None where there is none."""
        columns = self.named_by()
        parts = object_id.split(".", len(columns) - 1)
        if len(parts) != len(columns):
            return None
        try:
            wanted = {
                column: self.model._meta.get_field(column).to_python(part)
                for column, part in zip(columns, parts, strict=True)
            }
            return self.get_queryset(request).filter(**wanted).first()
        except (ValueError, ValidationError):
            return None

    def named_by(self) -> tuple[str, ...]:
        """The columns of a row's name, in its order: mostly those of the list's."""
        return self.keyset

    def get_queryset(self, request):
        # `-pk`, by which Django would sort what has no order, is no index of a view.
        return self.model._default_manager.get_queryset().order_by()

    @admin.display(description="user hash")
    def user(self, row):
        """The first digits, that lead to the user's own page."""
        return format_html(
            '<a class="hash" title="{0}" href="../tenantmeta/{0}/change/">{1}…</a>',
            row.user_hash,
            row.user_hash[:HASH_DIGITS],
        )
