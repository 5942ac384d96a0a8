"""The errors of the certificate tool.

ConfigError                    (api.errors) a flag, name or host that cannot be used
├── ExistingFilesError         what would be made is there already
└── CredentialsError           (api.errors) a certificate, key, request or CA that cannot be used
    └── RequestRefusedError    a certificate request that is damaged, or asks for what it may not have
"""

from __future__ import annotations

from api.errors import ConfigError, CredentialsError


class ExistingFilesError(ConfigError):
    """A file that would be made is there already, and overwriting was not asked for."""


class RequestRefusedError(CredentialsError):
    """A certificate request is not signed by its own key, or asks for something that is not granted."""
