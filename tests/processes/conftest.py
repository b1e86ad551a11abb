"""The fixtures of the mailers' tests serve here, too."""

from tests.mailer.conftest import scripted as scripted
