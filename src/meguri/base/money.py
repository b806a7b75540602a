"""Money as people read it: an amount and the code of its currency, thousands separated."""

from __future__ import annotations

UNITS = {"ja": {"JPY": "円"}}


def amount(value: float) -> str:
    """Three significant digits, and from 1,000 on whole units."""
    return f"{value:,.0f}" if abs(value) >= 999.5 else f"{value:.3g}"


def currency_unit(currency: str, language: str = "en") -> str:
    """What stands behind an amount: the currency's code, or what the language calls it."""
    return UNITS.get(language, {}).get(currency, currency)


def money(value: float, currency: str, language: str = "en") -> str:
    """``1.93 JPY``, ``480,000 JPY``; in Japanese ``480,000 円``."""
    return f"{amount(value)} {currency_unit(currency, language)}"
