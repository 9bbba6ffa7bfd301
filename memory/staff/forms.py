"""What staff types in, and by what a list is narrowed down beside a user."""

from __future__ import annotations

from django import forms
from django.contrib import admin
from django.contrib.admin.forms import AdminPasswordChangeForm

from memory.rollout.flags import FLAGS
from memory.security import USER_ID_MAX_CHARS


class FindForm(forms.Form):
    """A user id, which is sent in a body and stands in no address."""

    user_id = forms.CharField(
        max_length=USER_ID_MAX_CHARS, strip=False, widget=forms.TextInput(attrs={"autocomplete": "off"})
    )


class StateFilter(admin.SimpleListFilter):
    """By the state of a tenant; of those at rest there are too many to be picked out."""

    title = parameter_name = "state"

    def lookups(self, request, model_admin):
        return [(state, state) for state in ("erasing", "moving", "moved")]

    def queryset(self, request, queryset):
        return queryset.filter(state=self.value()) if self.value() else queryset


class QuarantineFilter(admin.SimpleListFilter):
    """Quarantined chunks, which are few."""

    title = parameter_name = "quarantined"

    def lookups(self, request, model_admin):
        return [("yes", "yes")]

    def queryset(self, request, queryset):
        return queryset.filter(quarantined_at__isnull=False) if self.value() else queryset


class OwnPasswordForm(AdminPasswordChangeForm):
    """The old password, and the new one twice."""

    def save(self, commit=True):
        self.user.set_password(self.cleaned_data["new_password1"])
        self.user.save(update_fields=["password"])
        return self.user


class ErasureForm(forms.Form):
    """The first digits of the user's hash, typed by hand."""

    typed = forms.CharField(
        label="First 8 digits of the user hash", widget=forms.TextInput(attrs={"autocomplete": "off"})
    )


class FlagForm(forms.Form):
    """A flag and the value that it shall have, as JSON; without one it goes back to the setting."""

    name = forms.ChoiceField(choices=[(name, name) for name in FLAGS])
    value = forms.CharField(required=False)
