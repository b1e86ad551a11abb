"""Whether a delivery ended as the table in ``replies.py`` says."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from smtpbackend import Outcome, Receipt, Status
from smtpbackend.errors import ConnectionLost, InDoubt, ProtocolViolation
from tests.faults.invariants import broken_rules
from tests.faults.plan import MESSAGES, Case, Odd
from tests.faults.replies import (
    ALONE,
    DOUBT,
    ELSEWHERE,
    EXPECTED,
    EXPECTED_OF_ALL,
    FLOODS,
    GOOD,
    NEXT,
    SAID,
    SENT,
    Fate,
    counted,
    points_of,
)
from tests.faults.server import Ledger

__all__ = ["examine", "kind_of"]

KINDS = {(spoken.at(point), point): spoken.kind for spoken in (*SAID.values(), *FLOODS.values()) for point in GOOD}


def kind_of(odd: Odd) -> str:
    """The kind of reply it is."""
    return KINDS[odd.octets, odd.point]


def expected(case: Case) -> Fate:
    """The fate of the message that the odd reply meets."""
    odd = case.fault
    assert isinstance(odd, Odd)
    kind = kind_of(odd)
    proven = odd.message > 0
    if case.has_window and odd.point in ("END", "BDAT LAST"):
        proven = True  # the server was asked whether it answers what stands behind a content
    point = "RSET unclean" if odd.unclean else odd.point
    if not odd.extra:
        if dict(case.settings).get("recipient_policy") == "all" and odd.point == "RCPT 1":
            return EXPECTED_OF_ALL[kind].elsewhere(proven)
        fate = EXPECTED[point][kind].elsewhere(proven)
        if (point, kind, proven) == ("MAIL", "too many", False):
            fate = fate._replace(kept=None)  # it says no more of this connection than of a fresh one
        if point == "BDAT LAST" and odd.octets.startswith(b"552"):
            fate = fate._replace(kept=False)  # DESIGN 5.2: Exim reads what is left of the chunk as commands
        return fate
    if kind == "nothing" and odd.point != "STARTTLS":  # there it is an octet too many (RFC 3207 4.2)
        return SENT._replace(kept=odd.point != "QUIT")
    # DESIGN 4.5: what was not asked for is a dead connection, found before the next command goes out
    if odd.point in points_of(opening=True):
        return NEXT
    in_flight = case.flies and odd.message > 0 and odd.point != "QUIT"
    if in_flight and kind != "421" and (odd.point == "BDAT LAST" or kind != "no reply"):
        return DOUBT
    if odd.point in ("END", "BDAT LAST", "QUIT"):
        return SENT._replace(kept=False)
    if "PIPELINING" not in case.extensions:
        return ELSEWHERE.elsewhere(proven)
    return _counted(case, odd, kind).elsewhere(proven)


def _counted(case: Case, odd: Odd, kind: str) -> Fate:
    """A reply too many in a group: those behind it are taken for the next one's."""
    flight = ["MAIL", "RCPT 1", "RCPT 2"]
    if "CHUNKING" not in case.extensions:
        flight.append("DATA")
    if odd.message > 0:
        flight.insert(0, "RSET")
    if kind == "text":
        kind = "3xx" if odd.point == "DATA" else "2xx"
    got = counted(flight, odd.point, kind)
    if got.get("MAIL") == "5xx":
        return Fate("rejected", "rejected", False)
    fates = ["rejected" if got.get(rcpt) == "5xx" else "elsewhere" for rcpt in ("RCPT 1", "RCPT 2")]
    if got.get("DATA") == "5xx":
        fates = ["rejected" if fate == "elsewhere" else fate for fate in fates]
    elif got.get("DATA") == "4xx":
        fates = ["next" if fate == "elsewhere" else fate for fate in fates]
    return Fate(fates[0], fates[1], False)


def examine(receipts: list[Receipt], ledger: Ledger, ports: dict[str, int]) -> Iterable[str]:
    """The rules that hold whatever is said, and the fate of the message that was met."""
    case = ledger.case
    odd = case.fault
    assert isinstance(odd, Odd)
    if not ledger.struck:
        yield "the odd reply was not said"
        return
    yield from broken_rules(receipts, ledger, ports)
    if len(receipts) != MESSAGES + 1:
        return
    hit = MESSAGES - 1 if odd.point == "QUIT" else odd.message
    fate = expected(case)
    for number, receipt in enumerate(receipts):
        beside = case.has_window and number > hit > 0 and fate.kept is False  # it was in flight, too
        if number != hit and not receipt.ok and not (odd.unclean and number == 0) and not (beside and receipt.in_doubt):
            yield f"message {number}, which nothing happened to, is {shown(receipt)}"
    yield from _of_the_hit(receipts[hit], hit, fate, ledger, ports)
    used = any(m.server == "first" and m.connection == 0 and int(m.sender) > hit for m in ledger.handed)
    if fate.kept is not None and used != fate.kept and not (case.has_window and hit > 0):
        yield f"the connection was {'used again' if used else 'not used again'}"


def _of_the_hit(receipt: Receipt, hit: int, fate: Fate, ledger: Ledger, ports: dict[str, int]) -> Iterator[str]:
    case = ledger.case
    odd = case.fault
    assert isinstance(odd, Odd)
    for outcome, wanted in zip(receipt.outcomes, fate[:2], strict=True):
        address = str(outcome.address)
        there = [m for m in ledger.handed if m.sender == str(hit) and address in m.recipients]
        if wanted in ("again", "next") and any(m.server == "first" and m.connection == 0 for m in there):
            is_next_transaction = wanted == "again" and odd.point.startswith("RCPT") and not odd.extra
            if not (is_next_transaction and kind_of(odd) == "too many"):
                wanted = "doubt"  # DESIGN 4.3: it was handed over
        if not _is(outcome, wanted, case, odd, [(m.server, m.connection) for m in there], ports):
            yield f"{address} of message {hit} is not {wanted}, but {shown(receipt)}"
    if receipt.accepted or receipt.error is None:
        return
    wanted_errors: tuple[type[Exception], ...]
    if receipt.in_doubt:
        wanted_errors = (InDoubt,)
    elif not odd.extra:
        row = ALONE[odd.point]
        wanted_errors = row.get(kind_of(odd), row[""])
    elif "PIPELINING" in case.extensions and odd.point in points_of(opening=False):
        return  # whose reply it was taken for depends on the place
    else:
        wanted_errors = (ProtocolViolation, ConnectionLost) if kind_of(odd) == "421" else (ProtocolViolation,)
    if not isinstance(receipt.error, wanted_errors):
        yield f"the error is {receipt.error!r}"


def _is(
    outcome: Outcome, wanted: str, case: Case, odd: Odd, there: list[tuple[str, int]], ports: dict[str, int]
) -> bool:
    by = next((name for name, port in ports.items() if outcome.server == f"127.0.0.1:{port}"), "")
    accepted = outcome.status is Status.ACCEPTED
    if wanted == "sent":
        return accepted and by == "first" and there == [("first", 0)]
    if wanted == "again":
        return accepted and by == "first"
    if wanted == "next" and not case.alone:
        return accepted and by == "second"
    if wanted in ("next", "deferred"):
        return outcome.status is Status.DEFERRED and not there
    if wanted == "rejected":
        reply = outcome.reply
        return outcome.status is Status.REJECTED and reply is not None and str(reply.code) == odd.octets[:3].decode()
    return outcome.status is Status.IN_DOUBT


def shown(receipt: Receipt) -> str:
    """A receipt in few words."""
    outcomes = ", ".join(
        f"{o.address} {o.status.value} by {o.server}: {o.reply or o.error!r}"[:200] for o in receipt.outcomes
    )
    return f"[{outcomes}]"
