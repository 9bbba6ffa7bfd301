"""What strings may look like, as regular expressions that ECMA 262, Python and Rust read alike.

JSON Schema searches a pattern anywhere in the string, so each is anchored. None looks ahead or back: generators and
small validators cannot.
"""

from __future__ import annotations

# Category Cc: C0, DEL and C1, as `memory.api.fields.text` refuses them in identifiers.
_CONTROL = r"\u0000-\u001f\u007f-\u009f"
# What `str.strip()` removes.
_SPACE = r"\t-\r\u001c-\u0020\u0085\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"

STORABLE = r"^[^\u0000]*$"
NOT_BLANK = rf"^([^\u0000]*[^\u0000{_SPACE}][^\u0000]*)$"
IDENTIFIER = rf"^[^{_CONTROL}]*$"

# A path segment that is not empty, "." or "..".
_SEGMENT = rf"([^/.{_CONTROL}]|\.[^/.{_CONTROL}]|\.\.[^/{_CONTROL}])[^/{_CONTROL}]*"
ADDRESSABLE = rf"^{_SEGMENT}(/{_SEGMENT})*$"

# RFC 3339 with an offset, years 1900 to 2199.
DATE_TIME = (
    r"^(19|20|21)[0-9]{2}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,9})?"
    r"([Zz]|[+-]([01][0-9]|2[0-3]):[0-5][0-9])$"
)
UTC_DATE_TIME = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{6})?Z$"
UUID = r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$"
REQUEST_ID = r"^[A-Za-z0-9._-]{1,64}$"
BASE64URL = r"^[A-Za-z0-9_-]+$"
