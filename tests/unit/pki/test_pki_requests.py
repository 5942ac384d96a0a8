"""Which certificate requests are granted, and which are refused."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from api.errors import CredentialsError
from api.identity import Role, principal_of
from pki.authority import Authority
from pki.errors import RequestRefusedError
from pki.keys import new_key
from pki.request_files import make_client_request, make_server_request
from pki.requests import Request

Openssl = Callable[..., str]


def _request(*subject: tuple[x509.ObjectIdentifier, str], extensions: tuple[x509.ExtensionType, ...] = ()) -> Request:
    name = x509.Name([x509.NameAttribute(oid, value) for oid, value in subject or [(NameOID.COMMON_NAME, "bob")]])
    builder = x509.CertificateSigningRequestBuilder(name)
    for extension in extensions:
        builder = builder.add_extension(extension, critical=False)
    return Request(builder.sign(new_key(), hashes.SHA256()), "bob.csr")


def _hosts(ca: Authority, request: Request, now: datetime, *hosts: str) -> list[str]:
    certificate = ca.sign_server(request, hosts, now=now)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return [str(name.value) for name in names]


def _san(*names: str) -> x509.SubjectAlternativeName:
    return x509.SubjectAlternativeName([x509.DNSName(name) for name in names])


def test_own_requests_are_granted(ca: Authority, tmp_path: Path, now: datetime) -> None:
    """A request that this tool made on another machine is signed there; its key never travels."""
    client = make_client_request(tmp_path / "b", "bob")
    server = make_server_request(tmp_path / "b", ["localhost", "::1"])
    assert principal_of(ca.sign_client(Request.load(client.csr), [Role.WRITER], now=now)).name == "bob"
    assert _hosts(ca, Request.load(server.csr), now) == ["localhost", "::1"]


@pytest.mark.parametrize(
    "key",
    [
        ["ec", "-pkeyopt", "ec_paramgen_curve:P-256"],
        ["ec", "-pkeyopt", "ec_paramgen_curve:P-384"],
        ["ed25519"],
        ["rsa:2048"],
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("form", ["PEM", "DER"])
def test_openssl_request_is_granted(
    ca: Authority, tmp_path: Path, now: datetime, openssl: Openssl, key: list[str], form: str
) -> None:
    """What `openssl req` makes is accepted, with each accepted kind of key, in PEM and DER."""
    openssl("req", "-new", "-nodes", "-newkey", *key, "-keyout", "k", "-out", "r", "-outform", form, "-subj", "/CN=bob")
    certificate = ca.sign_client(Request.load(tmp_path / "r"), [Role.READER], now=now)
    certificate.verify_directly_issued_by(ca.certificate)
    assert principal_of(certificate).roles == {Role.READER}


def test_openssl_request_with_all_that_is_allowed(
    ca: Authority, tmp_path: Path, now: datetime, openssl: Openssl
) -> None:
    """Extensions that the profile grants anyway may be asked for; other attributes of the subject are left out."""
    openssl(
        *("req", "-new", "-nodes", "-newkey", "ed25519", "-keyout", "k", "-out", "r", "-subj", "/C=NL/O=ACME/CN=srv"),
        *("-addext", "subjectAltName=DNS:a.example,IP:10.0.0.1", "-addext", "basicConstraints=critical,CA:FALSE"),
        *("-addext", "keyUsage=digitalSignature", "-addext", "extendedKeyUsage=serverAuth"),
        *("-addext", "subjectKeyIdentifier=hash"),
    )
    request = Request.load(tmp_path / "r")
    assert _hosts(ca, request, now) == ["a.example", "10.0.0.1"]
    assert ca.sign_server(request, now=now).subject.rfc4514_string() == "CN=a.example"


@pytest.mark.parametrize(
    ("extension", "message"),
    [
        (x509.BasicConstraints(ca=True, path_length=None), r"to be a CA \(basicConstraints CA:TRUE\)"),
        (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), "extended key usage serverAuth"),
        (
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.CODE_SIGNING]),
            "extended key usage codeSigning",
        ),
        (x509.ExtendedKeyUsage([x509.ObjectIdentifier("1.2.3.4")]), r"extended key usage 1\.2\.3\.4"),
        (x509.SubjectKeyIdentifier(b"another"), r"SubjectKeyIdentifier \(2\.5\.29\.14\)"),
        (_san("localhost"), r"SubjectAlternativeName \(2\.5\.29\.17\)"),
        (x509.NameConstraints([x509.DNSName("a")], None), r"NameConstraints \(2\.5\.29\.30\)"),
        (x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4.5"), b"\x05\x00"), r"the extension 1\.2\.3\.4\.5"),
    ],
)
def test_client_extensions_refused(ca: Authority, now: datetime, extension: x509.ExtensionType, message: str) -> None:
    """A client's request for anything beyond its profile is refused by name."""
    with pytest.raises(
        RequestRefusedError, match=f"bob.csr asks .*{message}; a client's certificate is not granted that"
    ):
        ca.sign_client(_request(extensions=(extension,)), [Role.READER], now=now)


def test_key_usage_beyond_the_profile_refused(ca: Authority, tmp_path: Path, now: datetime, openssl: Openssl) -> None:
    """A key usage beyond digitalSignature is refused, and only the excess is named."""
    openssl(
        *("req", "-new", "-nodes", "-newkey", "ed25519", "-keyout", "k", "-out", "r", "-subj", "/CN=bob"),
        *("-addext", "keyUsage=digitalSignature,keyCertSign,keyAgreement,decipherOnly"),
    )
    with pytest.raises(RequestRefusedError, match="key usage decipherOnly, keyAgreement, keyCertSign;"):
        ca.sign_client(Request.load(tmp_path / "r"), [], now=now)


def test_server_refused_client_auth(ca: Authority, now: datetime) -> None:
    """A server cannot ask to be a client as well."""
    usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
    with pytest.raises(RequestRefusedError, match="clientAuth; a server"):
        ca.sign_server(_request(extensions=(_san("a"), usage)), now=now)


def test_changed_request_refused(ca: Authority, now: datetime) -> None:
    """A request that is not signed by its own key is refused: the asker must have the key."""
    der = bytearray(_request().csr.public_bytes(serialization.Encoding.DER))
    der[der.index(b"bob")] = ord("r")
    request = Request(x509.load_der_x509_csr(bytes(der)), "rob.csr")
    with pytest.raises(RequestRefusedError, match=r"rob\.csr is not signed by its own key"):
        ca.sign_client(request, [Role.READER], now=now)


@pytest.mark.parametrize(
    ("key", "kind"),
    [
        (rsa.generate_private_key(65537, 1024), "RSA 1024"),
        (ec.generate_private_key(ec.SECP521R1()), "ECDSA P-521"),
        (ec.generate_private_key(ec.SECP256K1()), "ECDSA secp256k1"),
        (dsa.generate_private_key(2048), "DSA 2048"),
    ],
    ids=["RSA 1024", "ECDSA P-521", "ECDSA secp256k1", "DSA 2048"],
)
def test_other_keys_refused(
    ca: Authority,
    now: datetime,
    key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | dsa.DSAPrivateKey,
    kind: str,
) -> None:
    """A weak or unusual kind of key is refused by name."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "bob")])
    request = Request(x509.CertificateSigningRequestBuilder(name).sign(key, hashes.SHA256()), "bob.csr")
    with pytest.raises(CredentialsError, match=f"kind {kind}, which is not accepted: use ECDSA P-256"):
        ca.sign_client(request, [], now=now)


def test_ed448_refused(ca: Authority, now: datetime) -> None:
    """Of the Edwards curves only Ed25519 is accepted."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "bob")])
    request = Request(x509.CertificateSigningRequestBuilder(name).sign(ed448.Ed448PrivateKey.generate(), None), "b")
    with pytest.raises(CredentialsError, match="kind Ed448"):
        ca.sign_client(request, [], now=now)


def test_roles_are_the_signers(ca: Authority, now: datetime) -> None:
    """A role in a request must be granted by the signer, and what the signer grants is what is in."""
    asked = (NameOID.ORGANIZATION_NAME, "jobd:writer"), (NameOID.COMMON_NAME, "bob")
    with pytest.raises(RequestRefusedError, match="pass --role writer to grant it"):
        ca.sign_client(_request(*asked), [Role.READER], now=now)
    certificate = ca.sign_client(_request(*asked), [Role.READER, Role.WRITER], now=now)
    assert principal_of(certificate).roles == {Role.READER, Role.WRITER}


def test_unknown_role_refused(ca: Authority, now: datetime) -> None:
    """A role that does not exist is refused."""
    asked = (NameOID.ORGANIZATION_NAME, "jobd:admin"), (NameOID.COMMON_NAME, "bob")
    with pytest.raises(RequestRefusedError, match="'admin', which does not exist"):
        ca.sign_client(_request(*asked), list(Role), now=now)


def test_servers_have_no_roles(ca: Authority, now: datetime) -> None:
    """A role in a server's request is refused."""
    asked = (NameOID.ORGANIZATION_NAME, "jobd:reader"), (NameOID.COMMON_NAME, "srv")
    with pytest.raises(RequestRefusedError, match="a server has no roles"):
        ca.sign_server(_request(*asked, extensions=(_san("a"),)), now=now)


def test_one_common_name(ca: Authority, now: datetime) -> None:
    """A client's request names one principal: not none, not two, not an impossible one."""
    cn = NameOID.COMMON_NAME
    with pytest.raises(RequestRefusedError, match="no common name"):
        ca.sign_client(_request((NameOID.COUNTRY_NAME, "NL")), [], now=now)
    with pytest.raises(RequestRefusedError, match="2 common names"):
        ca.sign_client(_request((cn, "a"), (cn, "b")), [], now=now)
    with pytest.raises(RequestRefusedError, match=r"'a\\x1b'"):
        ca.sign_client(_request((cn, "a\x1b")), [], now=now)


def test_name_can_be_demanded(ca: Authority, now: datetime) -> None:
    """A signer who says for whom the request is, is not given another's."""
    ca.sign_client(_request(), [], name="bob", now=now)
    with pytest.raises(RequestRefusedError, match="is for 'bob', not for 'alice'"):
        ca.sign_client(_request(), [], name="alice", now=now)


def test_hosts_are_the_signers(ca: Authority, now: datetime) -> None:
    """With --host, the certificate names those hosts, and a request for another is refused."""
    request = _request(extensions=(_san("A.example"),))
    assert _hosts(ca, request, now) == ["a.example"]
    assert _hosts(ca, request, now, "a.example", "b.example") == ["a.example", "b.example"]
    with pytest.raises(RequestRefusedError, match=r"hosts that --host does not allow: a\.example"):
        ca.sign_server(request, ["b.example"], now=now)


def test_server_without_hosts(ca: Authority, now: datetime) -> None:
    """A request that names no host needs --host."""
    with pytest.raises(RequestRefusedError, match="names no host"):
        ca.sign_server(_request(), now=now)
    assert _hosts(ca, _request(), now, "localhost") == ["localhost"]


@pytest.mark.parametrize(
    "name",
    [x509.DNSName("*.example"), x509.RFC822Name("a@b.example"), x509.UniformResourceIdentifier("spiffe://a/b")],
    ids=str,
)
def test_other_alternative_names_refused(ca: Authority, now: datetime, name: x509.GeneralName) -> None:
    """A wildcard, mail address or URI is refused, even with --host."""
    request = _request(extensions=(x509.SubjectAlternativeName([name]),))
    with pytest.raises(RequestRefusedError, match=r"bob\.csr"):
        ca.sign_server(request, ["localhost"], now=now)


def test_ed25519_ca(tmp_path: Path, now: datetime, openssl: Openssl) -> None:
    """A CA that openssl made, with an Ed25519 key, signs as well."""
    pki = tmp_path / "other"
    pki.mkdir()
    openssl(
        *("req", "-x509", "-nodes", "-newkey", "ed25519", "-keyout", pki / "ca.key", "-out", pki / "ca.crt"),
        *("-subj", "/CN=other", "-days", "3000", "-addext", "keyUsage=critical,keyCertSign"),
    )
    ca = Authority.load(pki)
    assert isinstance(ca.key, ed25519.Ed25519PrivateKey)
    at = ca.certificate.not_valid_before_utc
    ca.sign_client(_request(), [], now=at).verify_directly_issued_by(ca.certificate)


@pytest.mark.parametrize("content", [b"", b"text", b"-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n", b"\x30\x80\xff"])
def test_garbage_is_no_request(tmp_path: Path, content: bytes) -> None:
    """What is no request is refused by file name."""
    (tmp_path / "x.csr").write_bytes(content)
    with pytest.raises(CredentialsError, match=r"x\.csr holds no certificate request"):
        Request.load(tmp_path / "x.csr")
