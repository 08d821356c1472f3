"""The errors that a user can cause, and the exit status that each one gives on the command line."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bnncc.report import Report


class BnnccError(Exception):
    """Base of all errors that a user can cause. The message is one line that names the file, the node and the cause."""

    exit_status = 1


class BadInput(BnnccError):
    """A model, data file, config or option that cannot be used. Exit status 2."""

    exit_status = 2


class InternalError(BnnccError):
    """What no part of bnncc foresaw, named at the command line as the fault of bnncc that it is. Exit status 2."""

    exit_status = 2


class GateFailed(BnnccError):
    """A verification or a gate failed. Exit status 1. `report` is the report up to that point, where there is one."""

    exit_status = 1

    def __init__(self, message: str, report: Report | None = None) -> None:
        super().__init__(message)
        self.report = report
