"""A private Dovecot from its Debian package: submission, which relays to a Postfix of the tests, and LMTP.

Submission has two listeners on 127.0.0.1, `starttls_port` and `tls_port` (implicit TLS). It wants a login before mail
and, since both ends are this machine, takes one without TLS as well; what it relays arrives in the Postfix's mailbox.

LMTP listens on `lmtp_port` (it offers STARTTLS) and on the unix socket `lmtp_socket`, wants no login, and delivers
mail for everybody into Maildirs of its own. Refused before the content: rejected@example.com (550 5.1.1) and
later@example.com (451 4.3.0). Refused after it: full@example.com (552 5.2.2) and broken@example.com (451 4.2.0).
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from tests.servers import process
from tests.servers.mailbox import ArrivedMail, oldest_first
from tests.servers.ports import free_ports, wait_until
from tests.servers.postfix import Postfix
from tests.servers.process import NOBODY
from tests.servers.tls import Certificates

DOVECOT = Path("/usr/sbin/dovecot")
PROTOCOLS = Path("/usr/lib/dovecot")

DOVECOT_CONF = """\
protocols = submission lmtp
listen = 127.0.0.1
hostname = lab.example.com
instance_name = {folder}
base_dir = {folder}/run
state_dir = {folder}/state
log_path = {folder}/dovecot.log
auth_verbose = yes
ssl = yes
ssl_cert = <{folder}/server.pem
ssl_key = <{folder}/server.pem
ssl_ca = <{folder}/ca.pem
ssl_require_crl = no
ssl_verify_client_cert = yes
disable_plaintext_auth = no
auth_mechanisms = {mechanisms}
auth_realms = lab
auth_username_chars =
auth_username_format = %u
auth_ssl_username_from_cert = yes
# A refused login is answered within half a second, however many came before it
auth_failure_delay = 0
service anvil {{
  unix_listener anvil-auth-penalty {{
    mode = 0
  }}
}}
mail_max_userip_connections = 0
mail_location = maildir:{folder}/mail/%u
mail_uid = {nobody}
mail_gid = {nogroup}
first_valid_uid = 1
first_valid_gid = 1
recipient_delimiter =

# EXTERNAL takes the name from the client's certificate
passdb {{
  driver = passwd-file
  mechanisms = external
  args = {folder}/certified
}}
passdb {{
  driver = oauth2
  mechanisms = oauthbearer xoauth2
  args = {folder}/oauth2
}}
passdb {{
  driver = passwd-file
  args = scheme=PLAIN {folder}/passwords
}}
userdb {{
  driver = passwd-file
  args = {folder}/rejected
  result_success = return-fail
}}
userdb {{
  driver = passwd-file
  args = {folder}/peculiar
  result_internalfail = return
}}
userdb {{
  driver = static
  args = uid={nobody} gid={nogroup} home={folder}/home allow_all_users=yes
}}

submission_relay_host = {relay.host}
submission_relay_port = {relay.plain_port}
submission_max_mail_size = {size_limit}
service submission-login {{
  # One process for many connections
  service_count = 0
  inet_listener submission {{
    port = {starttls}
  }}
  inet_listener submissions {{
    port = {tls}
    ssl = yes
  }}
}}
# Written for a single recipient only; without it copies don't differ
lmtp_hdr_delivery_address = none
service lmtp {{
  inet_listener lmtp {{
    port = {lmtp}
  }}
  unix_listener lmtp {{
    mode = 0666
  }}
}}
protocol lmtp {{
  mail_plugins = quota
}}
plugin {{
  quota = maildir:quota
}}
{settings}
"""

OAUTH2 = """\
introspection_mode = local
local_validation_key_dict = fs:posix:prefix={folder}/keys/
username_attribute = sub
"""


def mint_token(subject: str, key: bytes, lifetime: float = 3600.0) -> str:
    """Return a JWT (RFC 7519) with HS256 that says "sub": `subject`; a negative `lifetime`: expired so long ago."""

    def encoded(part: bytes | dict[str, Any]) -> str:
        octets = part if isinstance(part, bytes) else json.dumps(part).encode()
        return base64.urlsafe_b64encode(octets).decode().rstrip("=")

    expires = int(time.time() + lifetime)
    # Dovecot's clock may be a second behind
    issued = int(time.time() + min(lifetime, 0) - 60)
    claims = {"sub": subject, "iat": issued, "nbf": issued, "exp": expires}
    signed = f"{encoded({'alg': 'HS256', 'typ': 'JWT'})}.{encoded(claims)}"
    return f"{signed}.{encoded(hmac.digest(key, signed.encode(), hashlib.sha256))}"


class Dovecot:
    """A running Dovecot that relays to `relay`, as a context manager.

    `settings` are lines of dovecot.conf that rule over those above, such as `{"auth_failure_delay": "2s"}`;
    `size_limit` is in octets. Login as `user` with `password`, with a `token()`, or with the client certificate of
    `certificates`, by one of `mechanisms`.
    """

    mechanisms = (
        *("PLAIN", "LOGIN", "CRAM-MD5", "DIGEST-MD5", "SCRAM-SHA-1", "SCRAM-SHA-256"),
        *("OAUTHBEARER", "XOAUTH2", "EXTERNAL"),
    )

    def __init__(
        self,
        certificates: Certificates,
        relay: Postfix,
        *,
        password: str = "secret",
        size_limit: int = 30 * 1024 * 1024,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self.host = "127.0.0.1"
        self.user = "user@lab"
        self.password = password
        self.ca_file = certificates.ca_file
        self.certificates = certificates
        self.relay = relay
        self.size_limit = size_limit
        # Of HS256, for tokens that `token` does not make
        self.token_key = os.urandom(32)
        self._settings = dict(settings or {})
        self._running: subprocess.Popen[bytes] | None = None

    @staticmethod
    def missing() -> str | None:
        """Return why Dovecot cannot be started here, or None."""
        for program in (DOVECOT, PROTOCOLS / "submission", PROTOCOLS / "lmtp"):
            if not program.exists():
                return f"dovecot is not installed: {program}"
        if os.geteuid() != 0:
            return "dovecot only starts for root"
        return Postfix.missing()

    def __enter__(self) -> Self:
        # Not below pytest's folder: that one is closed to the users dovenull and nobody
        self._folder = Path(tempfile.mkdtemp(prefix="smtpbackend-dovecot-"))
        try:
            self._prepare()
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._running is not None:
            process.stop(self._running)
            self._running = None
        shutil.rmtree(self._folder, ignore_errors=True)

    def _prepare(self) -> None:
        folder = self._folder
        folder.chmod(0o755)
        for name in ("mail", "home"):
            (folder / name).mkdir()
            os.chown(folder / name, NOBODY, NOBODY)
        shutil.copy(self.certificates.server, folder / "server.pem")
        (folder / "server.pem").chmod(0o600)
        shutil.copy(self.ca_file, folder / "ca.pem")

        # passwd-file: name:password:uid:gid:gecos:home:shell:extra fields
        (folder / "passwords").write_text(f"{self.user}:{{PLAIN}}{self.password}\n")
        (folder / "certified").write_text(f"{self.user}:::::::nopassword\n")
        (folder / "rejected").write_text("rejected@example.com:::::::\n")
        (folder / "peculiar").write_text(
            "later@example.com:::::::userdb_tempfail=yes\n"
            f"full@example.com::{NOBODY}:{NOBODY}::{folder}/home::userdb_quota_rule=*:bytes=1\n"
            f"broken@example.com::{NOBODY}:{NOBODY}::{folder}/home::userdb_mail=maildir:{folder}/server.pem/mail\n"
        )
        (folder / "oauth2").write_text(OAUTH2.format(folder=folder))
        # The key of every token that names no other: azp/alg/kid
        key = folder / "keys" / "default" / "HS256" / "default"
        key.parent.mkdir(parents=True)
        key.write_text(base64.b64encode(self.token_key).decode())

        self.starttls_port, self.tls_port, self.lmtp_port = free_ports(3, self.host)
        self.lmtp_socket = folder / "run" / "lmtp"
        conf = DOVECOT_CONF.format(
            folder=folder,
            nobody=NOBODY,
            nogroup=NOBODY,
            mechanisms=" ".join(self.mechanisms).lower(),
            relay=self.relay,
            size_limit=self.size_limit,
            starttls=self.starttls_port,
            tls=self.tls_port,
            lmtp=self.lmtp_port,
            settings="".join(f"{name} = {value}\n" for name, value in self._settings.items()),
        )
        (folder / "dovecot.conf").write_text(conf)

    def _start(self) -> None:
        self._running = process.start(
            [DOVECOT, "-F", "-c", self._folder / "dovecot.conf"],
            self.host,
            (self.starttls_port, self.tls_port, self.lmtp_port),
            lambda: self.log,
        )

    @property
    def log(self) -> str:
        """What Dovecot has logged so far."""
        path = self._folder / "dovecot.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def token(self, lifetime: float = 3600.0) -> str:
        """Return a bearer token of `user`; with a negative `lifetime` one that expired so many seconds ago."""
        return mint_token(self.user, self.token_key, lifetime)

    def mail(self, wait_for: int = 0, timeout: float = 30.0) -> list[ArrivedMail]:
        """Return what submission relayed, the oldest first; see `Postfix.mail`."""
        return [ArrivedMail(mail.raw, hops=2) for mail in self.relay.mail(wait_for, timeout)]

    def _arrived(self) -> list[Path]:
        return oldest_first((self._folder / "mail").glob("*/new/*"))

    def lmtp_mail(self, wait_for: int = 0, timeout: float = 30.0) -> list[ArrivedMail]:
        """Return what LMTP delivered, the oldest first.

        Waits until at least `wait_for` mails are there, at most `timeout` seconds. Raises TimeoutError with the end
        of the log.
        """
        if not wait_until(lambda: len(self._arrived()) >= wait_for, timeout):
            end = "\n".join(self.log.splitlines()[-30:])
            raise TimeoutError(f"{len(self._arrived())} of {wait_for} mails arrived within {timeout} s\n{end}")
        # mail/RECIPIENT/new/FILE
        return [ArrivedMail(path.read_bytes(), mailbox=path.parent.parent.name) for path in self._arrived()]

    def clear(self, timeout: float = 30.0) -> None:
        """Empty the mailboxes of LMTP and of the Postfix that submission relays to."""
        self.relay.clear(timeout)
        for path in self._arrived():
            path.unlink()
