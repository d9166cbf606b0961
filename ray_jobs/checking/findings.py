"""What was found, how it is shown, and the limit on the time of finding it."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from rich.console import Console
from rich.markup import escape

from setok.errors import SetokError

Status = Literal["ok", "warn", "fail"]
_STYLE = {"ok": "green", "warn": "yellow", "fail": "bold red"}


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One line of the doctor's."""

    status: Status
    subject: str
    """What was looked at: ``versions``, ``storage`` …"""
    text: str
    """What was found, with the figures."""
    remedy: str = ""
    """What to do; of everything that is not ok."""
    node: str = ""
    """Where, if it is one node of several."""


def ok(subject: str, text: str) -> Finding:
    return Finding(status="ok", subject=subject, text=text)


def warn(subject: str, text: str, remedy: str) -> Finding:
    return Finding(status="warn", subject=subject, text=text, remedy=remedy)


def fail(subject: str, text: str, remedy: str) -> Finding:
    return Finding(status="fail", subject=subject, text=text, remedy=remedy)


@dataclass(frozen=True, kw_only=True)
class Check:
    """One question, and how long its answer may take."""

    subject: str
    ask: Callable[[], Sequence[Finding]]
    seconds: float = 30.0
    late: str = "find out what it hangs on: a mount whose server is gone, or a node that is overloaded"
    """What to do where no answer comes."""


def run(check: Check) -> list[Finding]:
    """The findings of a check; a failure or no answer in time is one too.

    What hangs (a dead NFS server) cannot be interrupted: it is left behind in a thread that does not keep the process alive.
    """
    answer: list[Finding] = []

    def work() -> None:
        try:
            answer.extend(check.ask())
        except SetokError as error:
            answer.append(fail(check.subject, error.problem, error.remedy or "see above"))
        except Exception as error:  # the other checks go on
            text = f"{type(error).__name__}: {str(error).strip() or 'no more is known'}"
            answer.append(
                fail(check.subject, text, "this check itself broke; run it with SETOK_LOG=DEBUG and report it")
            )

    thread = threading.Thread(target=work, name=f"check {check.subject}", daemon=True)
    thread.start()
    thread.join(check.seconds)
    if thread.is_alive():
        return [fail(check.subject, f"no answer in {check.seconds:g} s", check.late)]
    return answer


def show(console: Console, finding: Finding) -> None:
    """One line for people, its remedy below it."""
    where = f"{finding.node}: " if finding.node else ""
    style = _STYLE[finding.status]
    console.print(f"[{style}]{finding.status:4}[/{style}]  {finding.subject:10}  {escape(where + finding.text)}")
    if finding.status != "ok":
        console.print(f"{'':18}→ {finding.remedy}", markup=False)


def as_json(findings: Sequence[Finding]) -> str:
    """All findings, and whether the whole is well."""
    return json.dumps({"ok": is_well(findings), "findings": [asdict(finding) for finding in findings]}, indent=2)


def is_well(findings: Sequence[Finding]) -> bool:
    """Whether nothing failed."""
    return all(finding.status != "fail" for finding in findings)
