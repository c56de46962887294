"""Values as people type them, and the names that they may have meant, for error messages."""

import difflib
from typing import Any


def nearest(name: str, valid: list[str]) -> str:
    """ "; did you mean 'x'? (valid: ...)" for error messages."""
    close = difflib.get_close_matches(str(name), valid, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    return f"{hint} (valid: {', '.join(valid)})" if valid else ""


def show(value: Any) -> str:
    """A value as it would be typed in YAML, in one line of at most 60 characters."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return shorten(
            "{" + ", ".join(f"{show_key(key)}: {show(item)}" for key, item in list(value.items())[:20]) + "}"
        )
    if isinstance(value, (list, tuple)):
        return shorten("[" + ", ".join(show(item) for item in list(value)[:20]) + "]")
    return shorten(repr(value))


def show_key(key: str) -> str:
    """A key as it was typed; in quotes, escaped, where it has characters that can't be printed; never a long one."""
    return shorten(key) if key.isprintable() else show(key)


def shorten(text: str) -> str:
    return text if len(text) <= 60 else text[:57] + "..."


def printable(text: str) -> str:
    r"""Text with a file's name in it, fit to be printed and stored: bytes that aren't UTF-8 become \xe9."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
