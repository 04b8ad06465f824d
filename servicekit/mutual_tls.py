"""TLS between the processes of one installation, with a certificate at both ends.

Optional: without its settings nothing is encrypted, which is for one machine only. With them every process shows a
certificate of the installation's own authority, and a server admits only callers whose certificate has an allowed name.
Access tokens are checked beside it, not instead.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, cast

import grpc
from pydantic import field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from servicekit.errors import MessmailError, Reason

_NAME_PROPERTIES = ("x509_subject_alternative_name", "x509_common_name")


@dataclass(frozen=True, slots=True)
class MutualTls:
    """Where a process has its certificate, its key and the authority of the others (PEM), and whom it lets call it."""

    certificate: Path
    key: Path
    authority: Path
    allowed_names: frozenset[str] = frozenset()

    def of_client(self) -> grpc.ChannelCredentials:
        """Returns what a channel is opened with; the server must have a certificate for the name that is dialled."""
        return grpc.ssl_channel_credentials(
            self.authority.read_bytes(), self.key.read_bytes(), self.certificate.read_bytes()
        )

    def of_server(self) -> grpc.ServerCredentials:
        """Returns what a server listens with. The files are read for every connection, so that they can be renewed."""
        return grpc.dynamic_ssl_server_credentials(self._configuration(), self._configuration, True)

    def _configuration(self) -> grpc.ServerCertificateConfiguration:
        pairs = [(self.key.read_bytes(), self.certificate.read_bytes())]
        return grpc.ssl_server_certificate_configuration(pairs, self.authority.read_bytes())


class MutualTlsSettings(BaseSettings):
    """The settings of mutual TLS, from the environment: all three files, or none."""

    model_config = SettingsConfigDict(hide_input_in_errors=True)

    messmail_tls_certificate: Path | None = None
    messmail_tls_key: Path | None = None
    messmail_tls_authority: Path | None = None
    # Which names a caller's certificate may have, separated by commas. Only servers need them.
    messmail_tls_allowed_names: Annotated[tuple[str, ...], NoDecode] = ()

    @field_validator("messmail_tls_allowed_names", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return tuple(name.strip() for name in value.split(",") if name.strip()) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _all_or_none(self) -> MutualTlsSettings:
        if any(self._files) and not all(self._files):
            raise ValueError(
                "MESSMAIL_TLS_CERTIFICATE, MESSMAIL_TLS_KEY and MESSMAIL_TLS_AUTHORITY belong together: set all or none"
            )
        return self

    @property
    def mutual_tls(self) -> MutualTls | None:
        """What the process speaks TLS with; None when it does not."""
        certificate, key, authority = self._files
        if certificate is None or key is None or authority is None:
            return None
        return MutualTls(certificate, key, authority, frozenset(self.messmail_tls_allowed_names))

    def mutual_tls_of_server(self) -> MutualTls | None:
        """Returns what a server speaks TLS with; raises RuntimeError when it would admit nobody."""
        tls = self.mutual_tls
        if tls is not None and not tls.allowed_names:
            raise RuntimeError("mutual TLS admits nobody: name the callers' certificates in MESSMAIL_TLS_ALLOWED_NAMES")
        return tls

    @property
    def _files(self) -> tuple[Path | None, Path | None, Path | None]:
        return self.messmail_tls_certificate, self.messmail_tls_key, self.messmail_tls_authority


def check_name(context: grpc.ServicerContext, allowed_names: frozenset[str]) -> None:
    """Raises PEER_NOT_ALLOWED when the caller's certificate has none of the allowed names."""
    # gRPC answers a list of each; its types say otherwise.
    shown = cast(Mapping[str, Sequence[bytes]], context.auth_context())
    names = {name.decode("utf-8", "replace") for kind in _NAME_PROPERTIES for name in shown.get(kind, ())}
    if allowed_names.isdisjoint(names):
        raise MessmailError(
            Reason.ERROR_REASON_PEER_NOT_ALLOWED, "the name in your certificate is not among those that may call here"
        )
