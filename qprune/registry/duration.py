"""Durations as people type them: 8h, 90m, 45s, 1h30m."""

import re

from qprune.registry.errors import UserError
from qprune.registry.show import show

UNITS = {"d": 86400, "h": 3600, "m": 60, "s": 1}


def seconds_of(text: str, option: str) -> float:
    """Seconds of a text such as "1h30m". Raises UserError, naming the option, for anything else, and for no time at all."""
    parts = re.fullmatch(r"\s*(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?\s*", text)
    seconds = sum(int(n or 0) * unit for n, unit in zip(parts.groups(), UNITS.values(), strict=True)) if parts else 0
    if not seconds:
        raise UserError(f"{option} {show(text)}: write a duration such as 8h, 90m, 45s or 1h30m")
    return float(seconds)


def duration_text(seconds: float) -> str:
    """7384 -> "2h 3m"; below two minutes in seconds."""
    if seconds < 120:
        return f"{seconds:.0f}s"
    minutes = round(seconds / 60)
    days, hours = divmod(minutes // 60, 24)
    parts = [f"{days}d" if days else "", f"{hours}h" if hours else "", f"{minutes % 60}m" if minutes % 60 else ""]
    return " ".join(filter(None, parts))
