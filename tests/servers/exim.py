"""A private Exim, unpacked from its Debian package by `get-exim`: own configuration, spool and mailbox.

Three listeners on 127.0.0.1: `starttls_port` (login only under TLS), `tls_port` (implicit TLS) and `plain_port` (no
TLS, login in clear). rejected@ any domain is answered 550 5.1.1, later@ 451 4.2.0. Mail for example.com, example.org
and exämple.com arrives in one Maildir (`delivered_to` tells whose it is); mail for any other domain is accepted and
thrown away.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from tests.servers import process
from tests.servers.mailbox import ArrivedMail, oldest_first
from tests.servers.ports import free_ports, wait_until
from tests.servers.process import NOBODY
from tests.servers.tls import Certificates

EXIM_CONF = """\
primary_hostname = lab.example.com
local_interfaces = 127.0.0.1
daemon_smtp_ports = {starttls} : {tls} : {plain}
tls_on_connect_ports = {tls}
exim_path = {program}
spool_directory = {folder}/spool
log_file_path = {folder}/log/%s
pid_file_path = {folder}/exim.pid
notifier_socket =
# When it calls itself it finds its libraries and its user again
keep_environment = ^LD_ : ^NSS_WRAPPER_
# As the user who receives, in the same process; nobody may not be able to read the program
deliver_drop_privilege = true

domainlist local_domains = example.com : example.org : xn--exmple-cua.com : exämple.com
message_size_limit = {size_limit}
tls_advertise_hosts = ${{if ={{$received_port}}{{{plain}}} {{}}{{*}}}}
tls_certificate = {folder}/server.pem
tls_dhparam = none
auth_advertise_hosts = ${{if or {{ {{def:tls_in_cipher}} {{={{$received_port}}{{{plain}}}}} }} {{*}}{{}}}}
dsn_advertise_hosts = *
smtputf8_advertise_hosts = *
allow_utf8_domains = true
prdr_enable = true
accept_8bitmime = true
# What arrives is what was sent
return_path_remove = false
envelope_to_remove = false
delivery_date_remove = false
host_lookup =
rfc1413_query_timeout = 0s
# The default is 10: later messages of a connection are only queued, until a queue runner comes
smtp_accept_queue_per_connection = 0
# The default is 20 connections at a time
smtp_accept_max = 0
acl_smtp_rcpt = rcpt
acl_smtp_data = data
{settings}
begin acl
rcpt:
  deny local_parts = rejected
    message = 5.1.1 User unknown
  defer local_parts = later
    message = 4.2.0 Mailbox busy
  accept
data:
  accept

begin routers
local:
  driver = accept
  domains = +local_domains
  transport = maildir
rest:
  driver = redirect
  allow_fail
  data = :blackhole:

begin transports
maildir:
  driver = appendfile
  directory = {folder}/mail/inbox
  maildir_format
  create_directory
  delivery_date_add
  envelope_to_add
  return_path_add

begin retry
* * F,2h,15m

begin authenticators
plain:
  driver = plaintext
  public_name = PLAIN
  server_prompts = :
  server_condition = ${{if and {{ {{eq{{$auth2}}{{{user}}}}} {{eq{{$auth3}}{{{password}}}}} }} }}
  server_set_id = $auth2
login:
  driver = plaintext
  public_name = LOGIN
  server_prompts = Username:: : Password::
  server_condition = ${{if and {{ {{eq{{$auth1}}{{{user}}}}} {{eq{{$auth2}}{{{password}}}}} }} }}
  server_set_id = $auth1
cram:
  driver = cram_md5
  public_name = CRAM-MD5
  server_secret = ${{if eq{{$auth1}}{{{user}}} {{{password}}} fail}}
  server_set_id = $auth1
"""


def unpacked() -> Path:
    """Return the folder that `get-exim` fills."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("SMTPBACKEND_EXIM") or Path(cache) / "smtpbackend" / "exim").absolute()


class Exim:
    """A running Exim, as a context manager.

    `settings` are main options that rule over those above, such as `{"smtp_receive_timeout": "2s"}`; `size_limit` is
    in octets. Login as `user` with `password` by PLAIN, LOGIN or CRAM-MD5.
    """

    mechanisms = ("PLAIN", "LOGIN", "CRAM-MD5")

    def __init__(
        self,
        certificates: Certificates,
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
        self.size_limit = size_limit
        self._settings = dict(settings or {})
        self._running: subprocess.Popen[bytes] | None = None

    @staticmethod
    def missing() -> str | None:
        """Return why Exim cannot be started here, or None."""
        if not (unpacked() / "packages").exists():
            return f"exim is not unpacked in {unpacked()}: tests/servers/get-exim"
        if os.geteuid() != 0:
            return "exim only starts for root"
        return None

    def __enter__(self) -> Self:
        # Not below pytest's folder: that one is closed to the user nobody
        self._folder = Path(tempfile.mkdtemp(prefix="smtpbackend-exim-"))
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
        for name in ("spool", "log", "mail"):
            (folder / name).mkdir()
            os.chown(folder / name, NOBODY, NOBODY)
        shutil.copy(self.certificates.server, folder / "server.pem")
        (folder / "server.pem").chmod(0o600)
        os.chown(folder / "server.pem", NOBODY, NOBODY)
        # Debian's Exim runs as the user Debian-exim, whom only an installed package makes
        for name, line in (("passwd", "Debian-exim:x:{0}:{0}::/:/bin/false\n"), ("group", "Debian-exim:x:{0}:\n")):
            (folder / name).write_text(Path("/etc", name).read_text() + line.format(NOBODY))

        self.starttls_port, self.tls_port, self.plain_port = free_ports(3, self.host)
        conf = EXIM_CONF.format(
            folder=folder,
            program=unpacked() / "usr/sbin/exim4",
            size_limit=self.size_limit,
            user=self.user,
            password=self.password,
            starttls=self.starttls_port,
            tls=self.tls_port,
            plain=self.plain_port,
            settings="".join(f"{name} = {value}\n" for name, value in self._settings.items()),
        )
        (folder / "exim.conf").write_text(conf, encoding="utf-8")

    def _start(self) -> None:
        libraries = unpacked() / "usr/lib"
        [wrapper] = libraries.rglob("libnss_wrapper.so")
        self._running = process.start(
            # In the foreground
            [unpacked() / "usr/sbin/exim4", "-bdf", "-C", self._folder / "exim.conf"],
            self.host,
            (self.starttls_port, self.tls_port, self.plain_port),
            lambda: self.log,
            {
                "LD_LIBRARY_PATH": f"{wrapper.parent}:{libraries}",
                "LD_PRELOAD": str(wrapper),
                "NSS_WRAPPER_PASSWD": str(self._folder / "passwd"),
                "NSS_WRAPPER_GROUP": str(self._folder / "group"),
            },
        )

    @property
    def log(self) -> str:
        """What Exim has logged so far."""
        files = (self._folder / "log" / name for name in ("main", "panic"))
        return "".join(path.read_text(errors="replace") for path in files if path.exists())

    def _queue_is_empty(self) -> bool:
        queue = self._folder / "spool" / "input"
        return not queue.exists() or not any(queue.iterdir())

    def _arrived(self) -> list[Path]:
        return oldest_first((self._folder / "mail").glob("inbox/new/*"))

    def mail(self, wait_for: int = 0, timeout: float = 30.0) -> list[ArrivedMail]:
        """Return what is in the mailbox, the oldest first.

        Waits until at least `wait_for` mails are there and nothing is under way any more, at most `timeout` seconds.
        Raises TimeoutError with the end of the log.
        """
        if not wait_until(lambda: len(self._arrived()) >= wait_for and self._queue_is_empty(), timeout):
            end = "\n".join(self.log.splitlines()[-30:])
            raise TimeoutError(f"{len(self._arrived())} of {wait_for} mails arrived within {timeout} s\n{end}")
        return [ArrivedMail(path.read_bytes()) for path in self._arrived()]

    def clear(self, timeout: float = 30.0) -> None:
        """Empty the mailbox, once nothing is under way to it any more."""
        if not wait_until(self._queue_is_empty, timeout):
            raise TimeoutError(f"the queue was not empty within {timeout} s")
        for path in self._arrived():
            path.unlink()
