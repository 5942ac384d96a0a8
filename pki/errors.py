"""The errors of the certificate tool.

ConfigError                    (api.errors) a flag, name or host that cannot be used
├── ExistingFilesError         what would be made is there already
└── CredentialsError           (api.errors) a certificate, key, request or CA that cannot be used
    ├── RequestRefusedError    a certificate request that is damaged, or asks for what it may not have
    ├── DamagedIndexError      a CA's index that is damaged, or another CA's
    ├── ForeignCertificateError  a certificate that this CA has not issued
    ├── NotIssuedError         no certificate of this CA is meant by a serial number or name, or more than one
    ├── RevokedError           a certificate that is revoked already
    └── PassphraseError        a passphrase that is wrong, missing or not wanted
"""

from __future__ import annotations

from api.errors import ConfigError, CredentialsError


class ExistingFilesError(ConfigError):
    """A file that would be made is there already, and overwriting was not asked for."""


class RequestRefusedError(CredentialsError):
    """A certificate request is not signed by its own key, or asks for something that is not granted."""


class DamagedIndexError(CredentialsError):
    """A CA's index is not what was last written, or is that of another CA."""


class ForeignCertificateError(CredentialsError):
    """A certificate was not issued by the CA that it was brought to."""


class NotIssuedError(CredentialsError):
    """A serial number or name does not mean exactly one certificate in a CA's index."""


class RevokedError(CredentialsError):
    """A certificate is revoked already."""


class PassphraseError(CredentialsError):
    """A key's passphrase is wrong, is missing, or was given where there is none."""
