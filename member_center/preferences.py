"""Preferences of confirmed people. For everybody else nothing is stored, and the answer is an empty object."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import cast

from member_center.limits import Limiter
from member_center.lists import Lists
from member_center.records.consent import Preferences, Standing, Subscription
from member_center.storage import subscriptions as subscription_store
from member_center.subscriptions import Person
from servicekit.access import Caller
from servicekit.database import Database
from servicekit.errors import invalid_field
from servicekit.json_bounds import BoundsError, Json, check_json_object, merge_patch


class MemberPreferences:
    """The preferences of one installation's members."""

    def __init__(self, database: Database, lists: Lists, limiter: Limiter) -> None:
        self._database = database
        self._lists = lists
        self._limiter = limiter

    def get(self, caller: Caller, person: Person) -> Preferences:
        """Returns a person's preferences; raises LIST_NOT_FOUND, TOKEN_MISSING, SCOPE_MISSING or RATE_LIMITED."""
        self._limiter.admit(caller)
        found = self._lists.get_for(caller, person.list_id, person.tenant_id)
        with self._database.brief(found.tenant_id) as transaction:
            read = subscription_store.find_by_address(transaction.finish, found.tenant_id, found.id, person.address.key)
        return _preferences_of(read)

    def update(self, caller: Caller, person: Person, patch: Preferences) -> Preferences:
        """Applies a merge patch (RFC 7396) and returns the preferences afterwards.

        Raises LIST_NOT_FOUND, TOKEN_MISSING, SCOPE_MISSING, RATE_LIMITED, or INVALID_FIELD for too large a result.
        """
        self._limiter.admit(caller)
        found = self._lists.get_for(caller, person.list_id, person.tenant_id)
        with self._database.brief(found.tenant_id) as transaction:
            read = subscription_store.find_by_address(
                transaction.run, found.tenant_id, found.id, person.address.key, lock=True
            )
            subscription = read[1]
            if subscription is None or subscription.standing is not Standing.CONFIRMED:
                return {}
            preferences = patched(subscription.preferences, patch)
            subscription_store.set_preferences(transaction.finish, replace(subscription, preferences=preferences))
        return preferences


def patched(preferences: Preferences, patch: Preferences) -> Preferences:
    """Returns the preferences after a merge patch (RFC 7396); raises INVALID_FIELD when they get too large."""
    merged = merge_patch(cast(Json, dict(preferences)), cast(Json, dict(patch)))
    try:
        return check_json_object(cast(Preferences, merged))
    except BoundsError as error:
        raise invalid_field("preferences", f"the result {error.problem}") from None


def _preferences_of(read: tuple[datetime, Subscription | None]) -> Preferences:
    subscription = read[1]
    return subscription.preferences if subscription and subscription.standing is Standing.CONFIRMED else {}
