"""The issuer's own keys, as only somebody with the database and the master keys can have them: for forging in tests."""

from __future__ import annotations

from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_der_private_key

from servicekit.keyring import MasterKeys
from tests.forgeries import Forger
from tests.recount import Ledger
from tests.stack import Stack


def forger_of(token: str, encrypted_key: bytes, master_keys: str) -> Forger:
    """Returns what forges tokens like this one, signed with the key that the issuer stores."""
    key = load_der_private_key(MasterKeys(master_keys).decrypt(encrypted_key), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    claims: dict[str, Any] = jwt.decode(token, options={"verify_signature": False})
    return Forger(key, jwt.get_unverified_header(token), claims)


def forger_of_stack(stack: Stack, token: str) -> Forger:
    """Returns what forges tokens like this one of a stack."""
    kid = jwt.get_unverified_header(token)["kid"]
    query = "SELECT encrypted_key FROM signing_keys WHERE kid = %s"
    ((encrypted,),) = Ledger(stack).rows(query, kid, database="member_center")
    return forger_of(token, encrypted, (stack.data_dir / "secrets/member_center-master-keys").read_text())
