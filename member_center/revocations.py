"""Ends access tokens before their time: one, or all of a client. What verifies tokens asks what is ended here."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

from member_center.records.installation import OPERATOR, Ended
from member_center.signing_keys import TOKEN_LIFE
from member_center.storage import revocations as revocation_store
from servicekit.database import Database
from servicekit.revocations import Revoked

# Until the last token that is meant has expired everywhere, with room for clocks.
_KEPT_FOR = TOKEN_LIFE + timedelta(minutes=1)


class RevocationList:
    """What has been ended in one installation."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def end_token(self, token_id: UUID) -> None:
        """Ends one token."""
        self._add(Ended.TOKEN, token_id)

    def end_tokens_of(self, client_id: UUID) -> None:
        """Ends every token of a client, which must get no further one."""
        self._add(Ended.CLIENT, client_id)

    def read(self) -> Revoked:
        """Returns what is in force."""
        with self._database.tenant(OPERATOR) as connection:
            found = revocation_store.read(connection)
        return Revoked(
            frozenset(str(ended_id) for ended, ended_id in found if ended is Ended.TOKEN),
            frozenset(ended_id for ended, ended_id in found if ended is Ended.CLIENT),
        )

    def _add(self, ended: Ended, ended_id: UUID) -> None:
        with self._database.tenant(OPERATOR) as connection:
            revocation_store.add(connection, ended, ended_id, _KEPT_FOR)
