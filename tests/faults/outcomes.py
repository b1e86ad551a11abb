"""Whether a delivery ended as the table in ``replies.py`` says."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from smtpbackend import Outcome, Receipt, Status
from smtpbackend.errors import ConnectionLost, InDoubt, ProtocolViolation
from tests.faults.invariants import broken_rules
from tests.faults.plan import MESSAGES, Case, Odd
from tests.faults.replies import (
    AGAIN,
    ALONE,
    BY_DATA,
    DOUBT,
    ELSEWHERE,
    EXPECTED,
    EXPECTED_OF_ALL,
    FLOODS,
    GOOD,
    IN_ORDER,
    NEXT,
    SAID,
    SENT,
    Fate,
    counted,
    look_up,
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
    point = odd.point
    if point == "RSET" and (odd.unclean or odd.message > 1):  # in a window it has something to clear as well
        point = "RSET unclean"
    in_groups = "PIPELINING" in case.extensions
    if not odd.extra:
        if kind == "order" and odd.message == 0 and point in ("MAIL", "RCPT 1", "RCPT 2", "DATA") and in_groups:
            return IN_ORDER
        if dict(case.settings).get("recipient_policy") == "all" and odd.point == "RCPT 1":
            return look_up(EXPECTED_OF_ALL, kind).elsewhere(proven)
        if case.runs_chunks and point == "MAIL" and odd.message == case.probed and kind in ("421", "no reply"):
            return AGAIN  # the RSET of the probe was refused, and this may be what follows from it
        if point == "DATA" and kind == "2xx" and in_groups:
            return ELSEWHERE.elsewhere(proven)
        fate: Fate = look_up(EXPECTED[point], kind).elsewhere(proven)
        if (point, kind, proven) == ("MAIL", "too many", False):
            fate = fate._replace(kept=None)  # it says no more of this connection than of a fresh one
        return _closed(fate, case, odd, kind, proven) if odd.closes else fate
    if kind == "nothing" and odd.point != "STARTTLS":  # there it is an octet too many (RFC 3207 4.2)
        return SENT._replace(kept=odd.point != "QUIT")
    # DESIGN 4.5: what was not asked for is a dead connection, found before the next command goes out
    if odd.point in points_of(opening=True):
        return NEXT
    in_flight = case.is_chunked(odd.message) and odd.point != "QUIT"
    if in_flight and kind != "421" and (odd.point == "BDAT LAST" or kind != "no reply"):
        return DOUBT
    if odd.point in ("END", "BDAT LAST", "QUIT"):
        return SENT._replace(kept=False)
    if "PIPELINING" not in case.extensions:
        return AGAIN if kind == "421" else ELSEWHERE.elsewhere(proven)
    return _counted(case, odd, kind, proven).elsewhere(proven)


def _closed(fate: Fate, case: Case, odd: Odd, kind: str, proven: bool) -> Fate:
    """A refusal, and the end of the connection without another word."""
    if odd.point in ("RSET", "probe", "RSET of the probe"):
        return AGAIN  # what follows a refused RSET was not read; the probe is no message's
    if fate in (IN_ORDER, BY_DATA):
        return AGAIN
    if odd.point == "MAIL" and kind == "4xx" and "PIPELINING" in case.extensions:
        return ELSEWHERE.elsewhere(proven)  # what it was answered last is the end of its connection
    if not odd.point.startswith("RCPT"):
        return fate._replace(kept=False)
    other = "doubt" if case.is_chunked(odd.message) else "elsewhere"  # DESIGN 4.3: it was handed over
    own = "rejected" if kind in ("5xx", "unknown", "order") else "elsewhere"
    return Fate(*((own, other) if odd.point == "RCPT 1" else (other, own)), False).elsewhere(proven)


def _counted(case: Case, odd: Odd, kind: str, proven: bool) -> Fate:
    """A reply too many in a group: those behind it are taken for the next one's."""
    if odd.unclean and not case.has_window and kind != "no reply":  # DATA waits: the one too many is seen
        return AGAIN
    flight = ["MAIL", "RCPT 1", "RCPT 2"]
    if not case.is_chunked(odd.message):
        flight.append("DATA")
    if odd.unclean or (case.has_window and odd.message > case.probed):
        flight.insert(0, "RSET")
    elif case.is_probed and odd.message == case.probed:
        flight[:0] = ["probe", "RSET of the probe"]
    if kind == "text":
        kind = {"DATA": "3xx", "probe": "order"}.get(odd.point, "2xx")
    got = {
        command: "5xx" if reply == "unknown" or (reply == "order" and odd.message > 0) else reply
        for command, reply in counted(flight, odd.point, kind).items()
    }
    if "order" in (got.get("MAIL"), got.get("RCPT 1"), got.get("RCPT 2"), got.get("DATA")):
        return IN_ORDER
    # RFC 5321 3.8: what follows 421 was not read; but a server that greets the first MAIL with it is left
    behind = [command for command in flight if command not in got]
    if kind == "421" and not (behind[:1] == ["MAIL"] and not proven):
        return AGAIN
    if kind == "no reply" and behind[:1] == ["RSET of the probe"]:
        return AGAIN  # DESIGN 5.1: the probe ended the connection, and no message's outcome depends on it
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
        # it was in flight, too; behind a goodbye, or a refused RSET and the end, what is in flight was not read
        beside = fate.kept is False and number > hit
        # a close is not always seen before a chunk is in flight
        beside = beside and ((case.has_window and hit > 0) or (odd.closes and case.is_chunked(number)))
        beside = beside and kind_of(odd) != "421" and not (odd.closes and odd.point.startswith("RSET"))
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
            is_by_data = odd.point == "BDAT LAST" and fate == BY_DATA and not odd.extra
            if not (is_next_transaction and kind_of(odd) == "too many") and not is_by_data:
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
