"""What holds whatever goes wrong, in one function: receipts against what the servers say they were given."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from smtpbackend import Receipt, Status
from tests.faults.plan import MESSAGES, RECIPIENTS, Cut, Odd
from tests.faults.server import Ledger

__all__ = ["broken_rules"]


def broken_rules(receipts: list[Receipt], ledger: Ledger, ports: dict[str, int]) -> Iterator[str]:
    """Each rule of DESIGN 4 that a delivery of `MESSAGES` and one more did not keep, in words.

    Where nothing is refused and the second server is well, whoever is not in doubt must have been accepted.
    """
    case = ledger.case
    yield from ledger.trouble
    for connection in (*ledger.connections["first"], *ledger.connections["second"]):
        if "unknown" in connection.points:
            yield "octets of a content were read as a command"
    if len(receipts) != MESSAGES + 1:
        yield f"{len(receipts)} receipts for {MESSAGES + 1} messages"
        return
    names = {f"127.0.0.1:{port}": name for name, port in ports.items()}
    taken = Counter((m.server, m.sender, address) for m in ledger.accepted for address in m.recipients)
    handed = Counter((m.sender, address) for m in ledger.handed for address in m.recipients)
    for message in ledger.handed:
        if message.content.strip() != message.sender.encode():
            yield f"{message.server} was handed the content {message.content!r} in the name of {message.sender}"
    for (sender, address), times in handed.items():
        if times > 1:
            yield f"message {sender} was handed over {times} times for {address}"

    in_doubt = []
    for number, receipt in enumerate(receipts):
        sender = str(number)
        if tuple(str(outcome.address) for outcome in receipt.outcomes) != RECIPIENTS:
            yield f"the receipt of message {number} is about {[str(o.address) for o in receipt.outcomes]}"
        for outcome in receipt.outcomes:
            address = str(outcome.address)
            who = f"message {number} for {address}"
            times = handed[sender, address]
            if outcome.status is Status.ACCEPTED:
                if not taken[names.get(outcome.server or "", ""), sender, address]:
                    yield f"{who} is reported accepted by {outcome.server}, which did not accept it"
            elif outcome.status is Status.IN_DOUBT:
                in_doubt.append(number)
                # a bare close behind a refusal tells as little of what was in flight (DESIGN 4.3)
                unseen = case.fault.closes if isinstance(case.fault, Odd) else getattr(case.fault, "by", "") == "rst"
                if not times and not (unseen and (case.flies or sender in ledger.free)):
                    yield f"{who} is in doubt and was not handed over"
            elif times:
                yield f"{who} is {outcome.status.value} and was handed over"
            elif not isinstance(case.fault, Odd):
                yield f"{who} is {outcome.status.value}: {outcome.reply or outcome.error!r}"
    if len(set(in_doubt)) > ledger.struck and case.way == "send":
        yield f"{len(set(in_doubt))} messages are in doubt after {ledger.struck} cuts"
    # a cut right behind the last reply may be noticed only when the next content is in flight already
    is_close = isinstance(case.fault, Cut) or (isinstance(case.fault, Odd) and case.fault.closes)
    noticed_late = is_close and case.flies and len(set(in_doubt)) <= ledger.struck
    if MESSAGES in in_doubt and ledger.struck == ledger.struck_before and not noticed_late:
        yield "the next send is in doubt"
    if ledger.open:
        yield f"{ledger.open} connections were left open"
