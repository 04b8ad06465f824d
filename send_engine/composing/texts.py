"""Every sentence Messmail itself puts into a mail, in every language it speaks.

A text is shown to people who never chose Messmail: plain words, no product name. `{list_name}` is what the tenant
called the list; nothing a stranger typed is ever put into a text. The English is ASCII: a plain mail stays 7bit.
"""

from dataclasses import dataclass

from servicekit.languages import CHINESE, ENGLISH, spoken


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
    tag=CHINESE,
    footer="您收到這封信，是因為您訂閱了「{list_name}」。",
    unsubscribe="取消訂閱",
    confirm_subject="請確認您要訂閱「{list_name}」",
    confirm_request="有人以這個電子郵件地址申請訂閱「{list_name}」。如果是您本人，請按下面的連結確認：",
    confirm_action="確認訂閱",
    confirm_life="這個連結在 7 天內有效。",
    confirm_ignore="如果不是您本人申請，請忽略這封信；沒有確認，您就不會收到任何郵件。",
)
_EN = MailTexts(
    tag=ENGLISH,
    footer='You receive this mail because you subscribed to "{list_name}".',
    unsubscribe="Unsubscribe",
    confirm_subject='Please confirm your subscription to "{list_name}"',
    confirm_request='Somebody asked to subscribe this e-mail address to "{list_name}". '
    "If it was you, please confirm by following this link:",
    confirm_action="Confirm my subscription",
    confirm_life="The link is valid for 7 days.",
    confirm_ignore="If it was not you, please ignore this mail. Without a confirmation you will not receive anything.",
)
_TEXTS = {CHINESE: _ZH_TW, ENGLISH: _EN}


def pick_texts(*wishes: object) -> MailTexts:
    """Returns the texts for the first wish that names a language we speak; English is the last resort."""
    return next((_TEXTS[language] for language in map(spoken, wishes) if language is not None), _EN)
