"""The words on the pages, in each of their languages. The same keys in each; a test keeps it so."""

from __future__ import annotations

from dataclasses import dataclass

from servicekit.languages import CHINESE, ENGLISH


@dataclass(frozen=True, slots=True)
class ProblemText:
    """What went wrong, and what to do next."""

    title: str
    next_step: str


# Each in its own words, for those who cannot read the others.
LANGUAGES = {CHINESE: "繁體中文", ENGLISH: "English"}

TEXTS: dict[str, dict[str, str]] = {
    ENGLISH: {
        "confirm_title": "Confirm your subscription",
        "confirm_ask": "Would you like to receive this newsletter?",
        "confirm_hint": "Nothing is sent until you press the button. If you did not ask for this, close this page.",
        "confirm_button": "Yes, subscribe me",
        "confirmed_title": "You are subscribed",
        "confirmed_text": "Thank you. From now on you will receive:",
        "confirmed_hint": "Every mail has a link to unsubscribe.",
        "mail_only_title": "Please use the link in your mail",
        "mail_only_text": "You had unsubscribed, so only the link in the confirmation mail can subscribe you again.",
        "unsubscribe_title": "Unsubscribe",
        "unsubscribe_ask": "Would you like to stop receiving this newsletter?",
        "unsubscribe_hint": "Nothing changes until you press the button.",
        "unsubscribe_button": "Unsubscribe me",
        "unsubscribed_title": "You are unsubscribed",
        "unsubscribed_text": "You will no longer receive:",
        "unsubscribed_hint": "You can close this page.",
        "preferences_title": "Your newsletters",
        "preferences_saved": "Your changes are saved",
        "preferences_text": "Here is what you receive from us.",
        "preferences_none": "You receive no newsletter from here any more.",
        "preferences_pending": "Waiting for you to confirm",
        "preferences_left": "You left this newsletter",
        "preferences_leave": "Unsubscribe",
        "preferences_leave_all": "Unsubscribe from all",
        "preferences_language": "Language of mails and pages",
        "preferences_save": "Save language",
        "preferences_hint": "To come back to a newsletter, sign up again on the site where you found it.",
        "this_list": "This newsletter",
        "request_id": "Reference for support",
    },
    CHINESE: {
        "confirm_title": "確認訂閱",
        "confirm_ask": "您要訂閱這份電子報嗎？",
        "confirm_hint": "按下按鈕之前，我們不會寄送任何電子報。如果不是您本人申請，請直接關閉此頁。",
        "confirm_button": "是，我要訂閱",
        "confirmed_title": "訂閱完成",
        "confirmed_text": "謝謝您，您將會收到：",
        "confirmed_hint": "每封信都附有退訂連結。",
        "mail_only_title": "請使用信中的連結",
        "mail_only_text": "您先前已退訂，因此只有確認信中的連結可以重新訂閱。",
        "unsubscribe_title": "取消訂閱",
        "unsubscribe_ask": "您要停止接收這份電子報嗎？",
        "unsubscribe_hint": "按下按鈕之前，不會有任何變更。",
        "unsubscribe_button": "取消訂閱",
        "unsubscribed_title": "已取消訂閱",
        "unsubscribed_text": "您將不再收到：",
        "unsubscribed_hint": "您可以關閉此頁。",
        "preferences_title": "您的電子報",
        "preferences_saved": "已儲存變更",
        "preferences_text": "以下是您訂閱的電子報。",
        "preferences_none": "您目前沒有訂閱這裡的任何電子報。",
        "preferences_pending": "等待您確認",
        "preferences_left": "您已退訂這份電子報",
        "preferences_leave": "取消訂閱",
        "preferences_leave_all": "取消訂閱全部電子報",
        "preferences_language": "信件與頁面的語言",
        "preferences_save": "儲存語言",
        "preferences_hint": "若要再次訂閱，請回到原網站重新申請。",
        "this_list": "這份電子報",
        "request_id": "客服查詢代碼",
    },
}

_OTHERWISE = "OTHERWISE"
PROBLEMS: dict[str, dict[str, ProblemText]] = {
    ENGLISH: {
        "LINK_EXPIRED": ProblemText(
            "This link has expired",
            "To subscribe, sign up again on the site where you found the newsletter: a new link is mailed to you. "
            "To unsubscribe or to change something, use the link at the end of the newest mail you received.",
        ),
        "LINK_SUPERSEDED": ProblemText(
            "This link no longer applies",
            "Something changed after it was made. Use the link in the newest mail you received, or sign up again on "
            "the site where you found the newsletter.",
        ),
        "LINK_INVALID": ProblemText(
            "This link is not complete",
            "Part of it may have been cut off. Open it from the mail again, or copy the whole address.",
        ),
        "RATE_LIMITED": ProblemText("Too many requests", "Please wait a minute and try again."),
        "UNAVAILABLE": ProblemText("We cannot answer at the moment", "Nothing was changed. Please try again shortly."),
        _OTHERWISE: ProblemText("This did not work", "Please open the link from the mail again."),
    },
    CHINESE: {
        "LINK_EXPIRED": ProblemText(
            "連結已過期",
            "若要訂閱，請回到原網站重新申請，我們會寄出新的確認連結；若要退訂或變更設定，請使用最新一封信末尾的連結。",
        ),
        "LINK_SUPERSEDED": ProblemText(
            "連結已失效",
            "這個連結產生之後，訂閱狀態已有變更。請使用最新一封信中的連結，或回到原網站重新申請。",
        ),
        "LINK_INVALID": ProblemText("連結不完整", "連結可能被截斷了。請從信中重新開啟，或複製完整的網址。"),
        "RATE_LIMITED": ProblemText("請求過於頻繁", "請稍候一分鐘再試。"),
        "UNAVAILABLE": ProblemText("目前無法回應", "沒有任何變更。請稍後再試。"),
        _OTHERWISE: ProblemText("無法完成", "請從信中重新開啟連結。"),
    },
}


def problem_text(reason: str, language: str) -> ProblemText:
    """Returns the words for a reason; a general text for reasons that a link does not lead to."""
    problems = PROBLEMS[language]
    return problems.get(reason, problems[_OTHERWISE])
