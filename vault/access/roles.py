"""Roles of people, and the duties that keep them apart.

A person has a role in a department, or for the whole vault. Each role belongs to a *duty*, and nobody holds
roles of two duties at a time (three administrators kept apart, GB/T 22239; policy R23). A constraint of the
database holds that (`person_duties`); here stand the words and the table.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final
from uuid import UUID


class Role(StrEnum):
    """What a person is in a department or in the vault."""

    STAFF = "staff"
    ARCHIVE_MANAGER = "archive_manager"
    DEPARTMENT_HEAD = "department_head"
    COMPLIANCE = "compliance"
    IT_OPERATIONS = "it_operations"
    SECURITY_ADMINISTRATOR = "security_administrator"
    AUDITOR = "auditor"


class Duty(StrEnum):
    """What nobody does besides another."""

    BUSINESS = "business"
    COMPLIANCE = "compliance"
    SYSTEM = "system"
    SECURITY = "security"
    AUDIT = "audit"


DUTY_OF: Final = {
    Role.STAFF: Duty.BUSINESS,
    Role.ARCHIVE_MANAGER: Duty.BUSINESS,
    Role.DEPARTMENT_HEAD: Duty.BUSINESS,
    Role.COMPLIANCE: Duty.COMPLIANCE,
    Role.IT_OPERATIONS: Duty.SYSTEM,
    Role.SECURITY_ADMINISTRATOR: Duty.SECURITY,
    Role.AUDITOR: Duty.AUDIT,
}

DEPARTMENTAL: Final = frozenset({Role.STAFF, Role.ARCHIVE_MANAGER, Role.DEPARTMENT_HEAD})
"""Roles held in one department; the others are held for the whole vault."""

DANGEROUS: Final = frozenset(Role) - {Role.STAFF, Role.ARCHIVE_MANAGER}
"""Roles that two people give: each of them decides over others, or over the vault."""


@dataclass(frozen=True)
class HeldRole:
    """A role as somebody holds it now.

    Attributes:
        department: None for a role of the whole vault.
        class_name: the role reaches documents of this class only; None: of every class.
        deputy_of: the person in whose place it is held.
    """

    role: Role
    department: str | None = None
    class_name: str | None = None
    deputy_of: UUID | None = None

    def reaches(self, department: str, class_name: str | None) -> bool:
        """Whether things of this department and class are within it."""
        return self.department in (None, department) and (
            self.class_name is None or class_name is None or self.class_name == class_name
        )
