"""Every sentence Messmail itself puts into a mail, in every language it speaks.

A text is shown to people who never chose Messmail: plain words, no product name. `{list_name}` is what the tenant
called the list; nothing a stranger typed is ever put into a text. The English is ASCII: a plain mail stays 7bit.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class MailTexts:
    """The sentences of one language."""

    tag: str
    footer: str
    unsubscribe: str
    confirm_subject: str
    confirm_request: str
    confirm_action: str
    confirm_life: str
    confirm_ignore: str


_ZH_TW = MailTexts(
    tag="zh-TW",
    footer="您收到這封信，是因為您訂閱了「{list_name}」。",
    unsubscribe="取消訂閱",
    confirm_subject="請確認您要訂閱「{list_name}」",
    confirm_request="有人以這個電子郵件地址申請訂閱「{list_name}」。如果是您本人，請按下面的連結確認：",
    confirm_action="確認訂閱",
    confirm_life="這個連結在 7 天內有效。",
    confirm_ignore="如果不是您本人申請，請忽略這封信；沒有確認，您就不會收到任何郵件。",
)
_EN = MailTexts(
    tag="en",
    footer='You receive this mail because you subscribed to "{list_name}".',
    unsubscribe="Unsubscribe",
    confirm_subject='Please confirm your subscription to "{list_name}"',
    confirm_request='Somebody asked to subscribe this e-mail address to "{list_name}". '
    "If it was you, please confirm by following this link:",
    confirm_action="Confirm my subscription",
    confirm_life="The link is valid for 7 days.",
    confirm_ignore="If it was not you, please ignore this mail. Without a confirmation you will not receive anything.",
)
LANGUAGES = (_EN, _ZH_TW)


def pick_texts(*wishes: object) -> MailTexts:
    """Returns the texts for the first wish we speak: a BCP 47 tag like `zh-TW` or `en-GB`. Others are passed over.

    Every Chinese tag gets Traditional Chinese, the only Chinese we have. English is the last resort.
    """
    for wish in wishes:
        if isinstance(wish, str):
            language = wish.replace("_", "-").partition("-")[0].strip().lower()
            if language == "zh":
                return _ZH_TW
            if language == "en":
                return _EN
    return _EN
