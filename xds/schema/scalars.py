"""Scalars in Envoy's JSON form: which texts and numbers are which values, as protobuf's lenient C++ parser reads them.

A reader returns the value, or ``BAD``. Integers are read as absl's ``SimpleAtoi`` reads them, and else as a number that
must be whole; floats as ``SimpleAtod``, with hexadecimal ones, infinities and NaN; booleans as ``SimpleAtob``. Python's
own functions take more: ``1_000``, full-width digits, other white space.
"""

import binascii
import math
import re
from collections.abc import Callable
from typing import Any

from google.protobuf.descriptor import EnumDescriptor, FieldDescriptor

BAD: Any = object()
"""What a reader returns for a value that its type can't hold."""

SECONDS_MAX = 315_576_000_000
"""Maximum of a duration: 10,000 years (google/protobuf/duration.proto)."""

_TRUE = frozenset(("true", "t", "yes", "y", "1"))
_FALSE = frozenset(("false", "f", "no", "n", "0"))
_WHOLE = re.compile(r"[+-]?[0-9]+")
_SPACED_WHOLE = re.compile(r"[ \t\n\v\f\r]*([+-]?[0-9]+)[ \t\n\v\f\r]*")
_NUMBER = re.compile(
    r"[ \t\n\v\f\r]*(?P<text>[+-]?(?:(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:e[+-]?[0-9]+)?"
    r"|(?P<hex>0x(?:[0-9a-f]+\.?[0-9a-f]*|\.[0-9a-f]+)(?:p[+-]?[0-9]+)?)"
    r"|inf(?:inity)?|(?P<nan>nan(?:\([0-9a-z_]*\))?)))[ \t\n\v\f\r]*",
    re.IGNORECASE | re.ASCII,
)
_BASE64 = re.compile(r"[A-Za-z0-9+/_-]*={0,2}")
_URL_SAFE = str.maketrans("-_", "+/")
_DURATION = re.compile(r"(?P<sign>-?)(?P<seconds>[0-9]+)(?:\.(?P<fraction>[0-9]{1,9}))?s")
_TIMESTAMP = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})T([0-9]{2}):([0-9]{2}):([0-9]{2})(?:\.(?P<fraction>[0-9]{1,9}))?"
    r"(?:Z|(?P<sign>[+-])(?P<hours>[0-9]{2}):(?P<minutes>[0-9]{2}))"
)
_SECONDS_OF_YEARS = range(-62_135_596_800, 253_402_300_800)  # 0001 to 9999
_FLOAT_EXACT = 2**53
FLOAT_OVERFLOW = 3.4028235677973366e38
"""The smallest number that rounds to infinity as a 32-bit float."""

_INTEGER_RANGE = {
    FieldDescriptor.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, 2**64 - 1),
}

Read = Callable[[Any], Any]


def integer_range(field: FieldDescriptor) -> tuple[int, int] | None:
    """Return the least and the greatest value of an integer field, None for other fields."""
    return _INTEGER_RANGE.get(field.cpp_type)


def reader(field: FieldDescriptor) -> Read:
    """Return the function that reads a scalar field's value."""
    if field.enum_type is not None:
        return _enum_reader(field.enum_type)
    if field.type == FieldDescriptor.TYPE_STRING:
        return _read_text
    if field.type == FieldDescriptor.TYPE_BYTES:
        return read_bytes
    if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
        return _read_bool
    if field.cpp_type == FieldDescriptor.CPPTYPE_DOUBLE:
        return _read_double
    if field.cpp_type == FieldDescriptor.CPPTYPE_FLOAT:
        return _read_float
    return _integer_reader(*_INTEGER_RANGE[field.cpp_type])


def key_reader(field: FieldDescriptor) -> Read:
    """Return the function that reads the text of a map's key."""
    if field.type == FieldDescriptor.TYPE_STRING:
        return _read_text
    if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
        return lambda text: {"true": True, "false": False}.get(text, BAD)
    low, high = _INTEGER_RANGE[field.cpp_type]

    def read(text: str) -> Any:
        found = _SPACED_WHOLE.fullmatch(text)
        number = int(found[1]) if found is not None and len(text) < 100 else BAD
        return number if number is not BAD and low <= number <= high else BAD

    return read


def default(field: FieldDescriptor) -> Any:
    """Return the value that a null stands for among the items of a list or map."""
    if field.enum_type is not None:
        return field.enum_type.values[0].number
    kind = {FieldDescriptor.CPPTYPE_STRING: "", FieldDescriptor.CPPTYPE_BOOL: False}.get(field.cpp_type, 0)
    return b"" if field.type == FieldDescriptor.TYPE_BYTES else kind


def _read_text(value: Any) -> Any:
    return value if isinstance(value, str) else BAD


def _read_bool(value: Any) -> Any:
    if isinstance(value, bool):
        return value
    if not isinstance(value, str):
        return BAD
    word = value.lower() if value.isascii() else ""
    return True if word in _TRUE else False if word in _FALSE else BAD


def _integer_reader(low: int, high: int) -> Read:
    # protobuf's parser takes whole numbers with a point or an exponent only up to these limits
    float_max = min(high, _FLOAT_EXACT * (1 if low else 2))

    def read(value: Any) -> Any:
        if isinstance(value, int) and not isinstance(value, bool):
            return int(value) if low <= value <= high else BAD
        if isinstance(value, str):
            if _WHOLE.fullmatch(value):
                number = int(value) if len(value) < 100 else high + 1
                return number if low <= number <= high else BAD
            value = BAD if value[:1].isspace() or value[-1:].isspace() else _read_double(value)
        if not isinstance(value, float) or not value.is_integer():
            return BAD
        return int(value) if max(low, -_FLOAT_EXACT) <= value <= float_max else BAD

    return read


def _read_double(value: Any) -> Any:
    if isinstance(value, float):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return finite(value)
    if not isinstance(value, str) or (found := _NUMBER.fullmatch(value)) is None:
        return BAD
    text = found["text"]
    if found["hex"] is not None:
        try:
            return float.fromhex(text)
        except OverflowError:
            return -math.inf if text.startswith("-") else math.inf
    return math.nan if found["nan"] is not None else float(text)


def _read_float(value: Any) -> Any:
    number = _read_double(value)
    if number is BAD or (abs(number) >= FLOAT_OVERFLOW and not math.isinf(number)):
        return BAD
    return number


def finite(value: float) -> Any:
    """Return a number as a finite float, ``BAD`` if there is none."""
    try:
        number = float(value)
    except OverflowError:
        return BAD
    return number if math.isfinite(number) else BAD


def read_bytes(value: Any) -> Any:
    """Return the bytes of a base64 or base64url text, padded or not; ``BAD`` for any other value."""
    if not isinstance(value, str) or _BASE64.fullmatch(value) is None:
        return BAD
    bare = value.rstrip("=")
    missing = -len(bare) % 4
    if missing == 3 or len(value) - len(bare) not in (0, missing):
        return BAD
    return binascii.a2b_base64(bare.translate(_URL_SAFE) + "=" * missing)


def _enum_reader(enum: EnumDescriptor) -> Read:
    numbers: dict[str, int] = {}
    for item in enum.values:
        numbers.setdefault(item.name, item.number)
    for item in enum.values:
        numbers.setdefault(item.name.lower(), item.number)
    read_number = _integer_reader(-(2**31), 2**31 - 1)
    is_closed = enum.is_closed
    known = frozenset(numbers.values())

    def read(value: Any) -> Any:
        if isinstance(value, str):
            found = numbers.get(value)
            if found is None and value.isascii():
                found = numbers.get(value.lower())
            if found is not None:
                return found
            whole = _SPACED_WHOLE.fullmatch(value)
            number = read_number(whole[1]) if whole is not None else BAD
        else:
            number = read_number(value)
        return BAD if is_closed and number not in known else number

    return read


def fill_duration(message: Any, text: str) -> bool:
    """Set a duration from its text, such as ``1.5s``; return whether it is one."""
    found = _DURATION.fullmatch(text)
    if found is None:
        return False
    seconds = int(found["seconds"]) if len(text) < 100 else SECONDS_MAX + 1
    nanos = int((found["fraction"] or "").ljust(9, "0"))
    if seconds > SECONDS_MAX or (seconds == SECONDS_MAX and nanos):
        return False
    message.seconds, message.nanos = (-seconds, -nanos) if found["sign"] else (seconds, nanos)
    return True


def fill_timestamp(message: Any, text: str) -> bool:
    """Set a timestamp from its text (RFC 3339); return whether it is one.

    Envoy takes the 30th of February for the 2nd of March, and minute 60 for the next hour; such a time is none here.
    """
    found = _TIMESTAMP.fullmatch(text)
    if found is None:
        return False
    year, month, day, hour, minute, second = map(int, found.groups()[:6])
    if not 1 <= month <= 12 or not 1 <= day <= _days_in(year, month) or hour > 23 or minute > 59 or second > 59:
        return False
    seconds = (_days_since_epoch(year, month, day) * 24 + hour) * 3600 + minute * 60 + second
    if found["sign"]:
        ahead = int(found["hours"]) * 3600 + int(found["minutes"]) * 60
        seconds += -ahead if found["sign"] == "+" else ahead
    if seconds not in _SECONDS_OF_YEARS:
        return False
    message.seconds, message.nanos = seconds, int((found["fraction"] or "").ljust(9, "0"))
    return True


def _days_in(year: int, month: int) -> int:
    after = (year + 1, 1) if month == 12 else (year, month + 1)
    return _days_since_epoch(*after, 1) - _days_since_epoch(year, month, 1)


def _days_since_epoch(year: int, month: int, day: int) -> int:
    """Return the days from 1970-01-01 to a date of the Gregorian calendar, counted in years that begin in March."""
    year -= month < 3
    in_year = (153 * ((month + 9) % 12) + 2) // 5 + day - 1
    return year * 365 + year // 4 - year // 100 + year // 400 + in_year - 719_468


def fill_field_mask(message: Any, text: str) -> bool:
    """Set a field mask from its text, such as ``a.bC,d``; return whether it is one."""
    if text:
        message.paths.extend(re.sub(r"[A-Z]", lambda found: "_" + found[0].lower(), path) for path in text.split(","))
    return True
