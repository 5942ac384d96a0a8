"""Who a certificate names, when OpenSSL has taken it and it is strange all the same."""

from __future__ import annotations

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from api.errors import IdentityError
from api.identity import principal_of_der
from tests.support.pki import TestPki


@pytest.mark.parametrize("version", [2, 4])
def test_a_version_that_there_is_not_names_nobody(pki: TestPki, version: int) -> None:
    """It is no failure of the server: a CA can sign it, and OpenSSL lets it through."""
    certificate = x509.load_pem_x509_certificate(pki.certificate("alice").read_bytes())
    der = certificate.public_bytes(Encoding.DER).replace(
        b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01" + bytes([version - 1]), 1
    )
    with pytest.raises(IdentityError, match="cannot be parsed"):
        principal_of_der(der)
