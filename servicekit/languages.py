"""The languages that Messmail itself speaks, and which of them a wish means: one rule for mails and pages."""

ENGLISH = "en"
CHINESE = "zh-TW"


def spoken(wish: object) -> str | None:
    """Returns the language for a wish, a BCP 47 tag like `zh-TW` or `en-GB`; None when it is none we speak.

    Every Chinese tag gets Traditional Chinese, the only Chinese we have. Case does not count, nor `_` for `-`.
    """
    if not isinstance(wish, str):
        return None
    primary = wish.replace("_", "-").partition("-")[0].strip().lower()
    return {"zh": CHINESE, "en": ENGLISH}.get(primary)
