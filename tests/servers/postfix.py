"""A private Postfix from its Debian package: own configuration, queue and mailbox, no service of the system.

Four listeners on 127.0.0.1: `starttls_port` (login only under TLS), `tls_port` (implicit TLS), `plain_port` (no TLS,
login in clear) and `basic_port` (STARTTLS, but no CHUNKING, SMTPUTF8, DSN, PIPELINING or 8BITMIME); and `socket`, the
same as `starttls_port` on a unix socket.
rejected@example.com is answered 550 5.1.1, later@example.com 450 4.2.0. Mail for example.com, example.org and
exämple.com arrives in one Maildir (`Delivered-To` tells whose it is), octet for octet as it came; mail for any other
domain is accepted and thrown away.

It can be stopped or killed, and started again with the same ports, queue and mailbox. What was killed between writing
a mail to the mailbox and taking it off its queue writes it again when it comes back: two mails of one `queue_id` are
Postfix's doing, not the client's.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import stat
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from tests.servers.mailbox import ArrivedMail, oldest_first
from tests.servers.ports import answers, free_ports, wait_until
from tests.servers.process import LONGEST_RUN, NOBODY
from tests.servers.tls import Certificates

MASTER = Path("/usr/lib/postfix/sbin/master")

# What Cyrus SASL offers, weakest first
EVERY_MECHANISM = "PLAIN LOGIN CRAM-MD5 DIGEST-MD5 SCRAM-SHA-1 SCRAM-SHA-256 SCRAM-SHA-512"

MAIN_CF = """\
compatibility_level = 3.6
maillog_file = {folder}/postfix.log
maillog_file_prefixes = {folder}
queue_directory = {folder}/queue
data_directory = {folder}/data
myhostname = lab.example.com
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
mynetworks = 127.0.0.0/8
mydestination =
alias_maps =
alias_database =
local_recipient_maps =
default_transport = discard:
relay_transport = discard:
message_size_limit = {size_limit}
mailbox_size_limit = 0
queue_minfree = 0
in_flow_delay = 0
smtputf8_enable = yes
smtpd_peername_lookup = no
smtpd_client_connection_count_limit = 0
default_process_limit = 50
disable_dns_lookups = yes
# What was under way when it was killed is not left lying
queue_run_delay = 1s
minimal_backoff_time = 1s
maximal_backoff_time = 1s
transport_retry_time = 1s

# What arrives is what was sent: nothing added, rewritten or dropped but the trace fields
local_header_rewrite_clients =
message_drop_headers =
header_size_limit = 1048576

virtual_mailbox_domains = example.com, example.org, xn--exmple-cua.com, exämple.com
virtual_mailbox_base = {folder}/mail
virtual_mailbox_maps = static:inbox/
virtual_mailbox_limit = 0
virtual_minimum_uid = 1
virtual_uid_maps = static:{nobody}
virtual_gid_maps = static:{nobody}

smtpd_relay_restrictions = permit_mynetworks, permit_sasl_authenticated, reject
smtpd_recipient_restrictions =
    check_recipient_access inline:{{
        {{rejected@example.com = 550 5.1.1 User unknown}},
        {{later@example.com = 450 4.2.0 Mailbox busy}} }},
    permit_mynetworks, permit_sasl_authenticated, reject

smtpd_tls_security_level = may
smtpd_tls_chain_files = {folder}/server.pem
smtpd_tls_CAfile = {folder}/ca.pem
smtpd_tls_ask_ccert = yes
smtpd_tls_received_header = yes
smtpd_tls_loglevel = 1
smtpd_tls_auth_only = yes
smtpd_sasl_auth_enable = yes
smtpd_sasl_type = cyrus
smtpd_sasl_path = smtpd
cyrus_sasl_config_path = {folder}/sasl
smtpd_sasl_local_domain = lab
smtpd_sasl_security_options = noanonymous
"""

# service type private unpriv chroot wakeup maxproc command; nothing is chrooted
MASTER_CF = """\
127.0.0.1:{starttls} inet n - n - - smtpd
127.0.0.1:{tls} inet n - n - - smtpd -o smtpd_tls_wrappermode=yes
127.0.0.1:{plain} inet n - n - - smtpd -o smtpd_tls_security_level=none -o smtpd_tls_auth_only=no
127.0.0.1:{basic} inet n - n - - smtpd -o smtpd_discard_ehlo_keywords=chunking,smtputf8,dsn,pipelining,8bitmime
smtpd unix n - n - - smtpd
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
tlsmgr unix - - n 1000? 1 tlsmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
verify unix - - n - 1 verify
flush unix n - n 1000? 0 flush
proxymap unix - - n - - proxymap
error unix - - n - - error
retry unix - - n - - error
discard unix - - n - - discard
virtual unix - n n - - virtual
anvil unix - - n - 1 anvil
postlog unix-dgram n - n - 1 postlogd
"""

SASL_CONF = """\
pwcheck_method: auxprop
auxprop_plugin: sasldb
sasldb_path: {folder}/sasl/sasldb2
mech_list: {mechanisms}
"""


class Postfix:
    """A running Postfix, as a context manager.

    `settings` are lines of main.cf that rule over those above, such as `{"smtpd_timeout": "2s"}`; `size_limit` is in
    octets. Login as `user` with `password` by one of `mechanisms`. Its queue lies in a new folder `below` that one.
    """

    def __init__(
        self,
        certificates: Certificates,
        *,
        password: str = "secret",
        mechanisms: str = "PLAIN LOGIN CRAM-MD5",
        size_limit: int = 30 * 1024 * 1024,
        settings: Mapping[str, str] | None = None,
        below: Path | None = None,
    ) -> None:
        self._below = below
        self.host = "127.0.0.1"
        self.user = "user@lab"
        self.password = password
        self.ca_file = certificates.ca_file
        self.certificates = certificates
        self.size_limit = size_limit
        self._mechanisms = mechanisms
        self._settings = dict(settings or {})
        self._master: subprocess.Popen[bytes] | None = None

    @staticmethod
    def missing() -> str | None:
        """Return why Postfix cannot be started here, or None."""
        if not MASTER.exists():
            return "postfix is not installed"
        if not shutil.which("saslpasswd2", path=f"{os.environ.get('PATH', '')}:/usr/sbin"):
            return "postfix is not usable: sasl2-bin is not installed"
        if os.geteuid() != 0:
            return "postfix only starts for root"
        return None

    def __enter__(self) -> Self:
        # Not below pytest's folder: that one is closed to the users postfix and nobody
        self._folder = Path(tempfile.mkdtemp(prefix="smtpbackend-postfix-", dir=self._below))
        try:
            self._prepare()
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    def stop(self) -> None:
        """End it as `postfix stop` does: whatever it was doing, connections are cut."""
        if self._master is None:
            return
        self._master.terminate()  # master tells its children
        try:
            self._master.wait(10)
        except subprocess.TimeoutExpired:
            return self.kill()
        self._gone()

    def kill(self) -> None:
        """Kill master and all its children with SIGKILL."""
        if self._master is None:
            return
        os.killpg(self._master.pid, signal.SIGKILL)  # it has made itself the leader of one
        self._master.wait()
        self._gone()

    def _gone(self) -> None:
        """Nobody listens any more: children may outlive their master by a moment."""
        self._master = None
        if not wait_until(lambda: not any(answers(self.host, port) for port in self._ports), 10):
            raise RuntimeError(f"postfix does not end\n{self.log}")

    def start(self) -> None:
        """Start it, again too: with what is on its queue and in its mailbox."""
        if self._master is not None:
            return
        # What a killed cleanup(8) leaves: only a file that is executable was answered 250
        for path in (self._folder / "queue" / "incoming").iterdir():
            if not path.stat().st_mode & stat.S_IXUSR:
                path.unlink()
        self._start()

    def _prepare(self) -> None:
        self._ports = free_ports(4, self.host)
        self.starttls_port, self.tls_port, self.plain_port, self.basic_port = self._ports
        folder, postfix = self._folder, pwd.getpwnam("postfix")
        folder.chmod(0o755)
        for name in ("queue", "queue/pid", "sasl", "mail"):
            (folder / name).mkdir()
        os.chown(folder / "mail", NOBODY, NOBODY)
        # What `postfix set-permissions` makes, see postfix-files
        own = (
            "active",
            "bounce",
            "corrupt",
            "defer",
            "deferred",
            "flush",
            "hold",
            "incoming",
            "private",
            "saved",
            "trace",
        )
        for path in [folder / "data", *(folder / "queue" / name for name in own)]:
            path.mkdir(mode=0o700)
            os.chown(path, postfix.pw_uid, -1)
        for name, mode in (("public", 0o710), ("maildrop", 0o730)):
            path = folder / "queue" / name
            path.mkdir()
            shutil.chown(path, "postfix", "postdrop")
            path.chmod(mode)

        shutil.copy(self.certificates.server, folder / "server.pem")
        (folder / "server.pem").chmod(0o600)
        shutil.copy(self.ca_file, folder / "ca.pem")

        conf = SASL_CONF.format(folder=folder, mechanisms=self._mechanisms)
        (folder / "sasl" / "smtpd.conf").write_text(conf)
        user, realm = self.user.split("@")
        subprocess.run(
            ["saslpasswd2", "-p", "-c", "-f", folder / "sasl" / "sasldb2", "-u", realm, user],
            env={**os.environ, "PATH": f"{os.environ.get('PATH', '')}:/usr/sbin"},
            input=self.password.encode(),
            capture_output=True,
            check=True,
        )
        (folder / "sasl" / "sasldb2").chmod(0o640)
        shutil.chown(folder / "sasl" / "sasldb2", "root", "postfix")

        main = MAIN_CF.format(folder=folder, size_limit=self.size_limit, nobody=NOBODY)
        main += "".join(f"{name} = {value}\n" for name, value in self._settings.items())
        (folder / "main.cf").write_text(main, encoding="utf-8")
        self.socket = folder / "queue" / "public" / "smtpd"
        names = ("starttls", "tls", "plain", "basic")
        master = MASTER_CF.format(**dict(zip(names, self._ports, strict=True)))
        (folder / "master.cf").write_text(master)

    def _start(self) -> None:
        # In the foreground, so that it is our child. It makes a process group of its own, and ends it
        self._master = subprocess.Popen(
            [MASTER, "-c", self._folder, "-s", "-e", str(LONGEST_RUN)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        running = self._master

        def up() -> bool:
            return running.poll() is not None or all(answers(self.host, port) for port in self._ports)

        if not wait_until(up, 20) or running.poll() is not None:
            running.kill()
            _, said = running.communicate()
            self._master = None
            raise RuntimeError(f"postfix did not start: {said.decode(errors='replace')}\n{self.log}")
        assert running.stderr is not None
        running.stderr.close()

    @property
    def log(self) -> str:
        """What Postfix has logged so far."""
        path = self._folder / "postfix.log"
        return path.read_text(errors="replace") if path.exists() else ""

    @property
    def cut_connections(self) -> int:
        """How many connections so far it did not see the end of, because it was stopped or killed."""
        log = self.log
        return log.count(": connect from") - log.count(": disconnect from")

    @property
    def _inbox(self) -> Path:
        return self._folder / "mail" / "inbox" / "new"

    def _queue_is_empty(self) -> bool:
        # In the order in which a message goes through them, whether it is delivered or deferred: it cannot slip by
        queue = self._folder / "queue"
        return not any(
            any(not path.is_dir() for path in (queue / name).rglob("*"))
            for name in ("deferred", "incoming", "active", "deferred")
        )

    def _arrived(self) -> list[Path]:
        return oldest_first(self._inbox.glob("*"))

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
