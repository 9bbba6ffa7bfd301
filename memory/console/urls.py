"""The memory page, below /console/."""

from django.urls import path

from memory.console.views import ConsoleFileView, ConsoleView, ReceiptKeysView

urlpatterns = [
    path("", ConsoleView.as_view(), name="console"),
    path("receipt-keys.json", ReceiptKeysView.as_view(), name="console-receipt-keys"),
    path("<str:name>", ConsoleFileView.as_view(), name="console-file"),
]
