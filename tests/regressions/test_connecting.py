"""What happens before the first octet."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from smtpbackend.errors import InvalidInput
from tests.mailer.conftest import Scripted
from tests.mailer.twins import Twin, hello
from tests.servers.tls import Certificates


def test_an_address_family_without_sockets_is_passed_over(
    twin: Twin, scripted: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kernel without IPv6 still has ::1 in /etc/hosts."""
    server = scripted({})
    here = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", server.port))]
    nowhere: list[Any] = [(socket.AF_APPLETALK, socket.SOCK_STREAM, 6, "", ("::1", server.port, 0, 0))]
    mailer = twin(server.url)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: nowhere + here)
    assert mailer.send(hello()).ok


def test_a_time_out_of_years_is_no_overflow(twin: Twin, scripted: Scripted) -> None:
    """poll counts milliseconds in an int."""
    assert twin(scripted({}).url, timeout=99_999_999).send(hello()).ok


@pytest.mark.parametrize("method", ["verify", "expand", "help"])
def test_a_question_with_a_line_end_is_refused_before_a_connection_is_opened(twin: Twin, method: str) -> None:
    """Nobody listens there: a connection would be what fails first."""
    with pytest.raises(InvalidInput, match="control character"):
        twin("smtp://127.0.0.1:1").ask(method, "ann\r\nRSET")


def test_an_encrypted_client_key_is_refused_and_asks_nobody(ca: Certificates, tmp_path: Path) -> None:
    """OpenSSL would ask the terminal for the pass phrase, and the process would wait for ever."""
    key = tmp_path / "key.pem"
    key.write_bytes(
        ec.generate_private_key(ec.SECP256R1()).private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"pass phrase"),
        )
    )
    script = (
        "import pty, os, sys\n"
        "pid, terminal = pty.fork()\n"
        "if pid == 0:\n"
        "    from smtpbackend import Mailer\n"
        "    try:\n"
        f"        Mailer('localhost', client_cert={str(ca.client_cert)!r}, client_key={str(key)!r})\n"
        "    except Exception as error:\n"
        "        print(type(error).__name__, flush=True)\n"
        "    os._exit(0)\n"
        "print(os.read(terminal, 1000).decode())\n"
        "os.kill(pid, 9)\n"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300, check=True)
    assert found.stdout.strip() == "InvalidSetting"
