"""The tables, as SQLAlchemy Core sees them; `migrations/` makes them and grants on them.

Ciphertext never lies here; names, which may carry personal data, do. `object_id` names the object
in every site's store. Rows that each upload writes carry no more foreign keys and indexes than something
uses: `created_by` names a principal, and principals are never deleted.
"""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Computed,
    DateTime,
    ForeignKey,
    ForeignKeyConstraint,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    desc,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

SHARED: Final = {
    "alembic_version": "which migrations ran",
    "vault_identity": "one id, the same for everybody",
    "classes": "rules that everybody files under",
    "principals": "a caller is recognised before anything is known of them",
    "api_keys": "likewise; secrets are digests",
    "departments": "names that everybody may know",
    "person_duties": "a constraint's memory: an id and a word",
    "role_grants": "a caller is recognised before anything is known of them",
    "sessions": "likewise; tokens are digests",
    "oidc_identities": "people are recognised by them before anything is known of them",
    "oidc_sign_ins": "begun by nobody that is known yet; gone after minutes",
    "local_users": "likewise; passwords are hashes, TOTP secrets sealed under the KMS",
    "sign_in_attempts": "digests and counts; whoever signs in is nobody yet",
    "processes": "heartbeats",
    "uploads": "ids of objects that no document owns yet",
    "journal": "ids of objects and sites; every upload writes it",
    "replicas": "ids of objects and sites; every page reads it",
    "sites": "two lines, the same for everybody",
    "topology": "one line, the same for everybody",
    "jobs": "counts and places of work on the whole vault; no document by name",
    "kek_versions": "numbers; a foreign key of every version",
    "shred_epochs": "numbers and certificates of the whole vault",
    "recovery_keys": "public keys",
    "recovery_epochs": "numbers; every upload asks for the newest",
    "signing_keys": "public keys, and seeds sealed under the KMS",
    "seal_keys": "sealed under the KMS; every caller is recognised with them",
    "findings": "what is wrong with principals and API keys, which belong to no department",
    "notifications": "ids and times; the worker delivers them for everybody",
}
"""Tables without row-level security, and why: nothing in them belongs to a department. A table that is not
here has to have policies (docs/access.md); a test reads the catalogue."""

NOW = text("now()")
Moment = DateTime(timezone=True)


def _seal() -> tuple[Column[Any], ...]:
    """The columns of a row that is sealed (vault.access.sealed_rows)."""
    return (
        Column(
            "authority_epoch",
            Integer,
            nullable=False,
            server_default=text("1"),
            comment="rises with every change of the principal's authority",
        ),
        Column("seal", LargeBinary),
        Column("seal_key_id", Text),
    )


vault_identity = Table(
    "vault_identity",
    metadata,
    Column(
        "singleton",
        SmallInteger,
        CheckConstraint("singleton = 1", name="one_row"),
        primary_key=True,
    ),
    Column("vault_id", Uuid, nullable=False, unique=True),
    Column("created_at", Moment, nullable=False, server_default=NOW),
)

classes = Table(
    "classes",
    metadata,
    Column("name", Text, primary_key=True),
    Column("media_types", ARRAY(Text), nullable=False, comment="empty: every type"),
    Column("max_size_bytes", BigInteger, nullable=False),
    Column(
        "durability",
        Text,
        CheckConstraint("durability IN ('sync', 'async')", name="durability"),
        nullable=False,
    ),
    Column(
        "retention_days",
        Integer,
        CheckConstraint("retention_days >= 0", name="retention"),
        nullable=False,
    ),
    Column("bin_days", Integer, CheckConstraint("bin_days >= 0", name="bin"), nullable=False),
    Column("created_at", Moment, nullable=False, server_default=NOW),
    Column(
        "if_peer_away",
        Text,
        CheckConstraint("if_peer_away IN ('refuse', 'degrade')", name="if_peer_away"),
        nullable=False,
        server_default=text("'refuse'"),
    ),
    Column(
        "worm_days",
        Integer,
        CheckConstraint("worm_days > 0", name="worm"),
        comment="object lock at both sites; NULL: none",
    ),
)

principals = Table(
    "principals",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("name", Text, nullable=False, unique=True),
    Column("department", Text, comment="NULL: none; *: every department"),
    Column("scopes", ARRAY(Text), nullable=False),
    Column("created_at", Moment, nullable=False, server_default=NOW),
    Column("disabled_at", Moment),
    Column(
        "kind",
        Text,
        CheckConstraint("kind IN ('application', 'person')", name="kind"),
        nullable=False,
        server_default=text("'application'"),
    ),
    Column("person_id", Uuid, comment="the natural person behind it, whichever their accounts"),
    Column("display_name", Text),
    *_seal(),
    CheckConstraint("(kind = 'person') = (cardinality(scopes) = 0)", name="scopes_of_applications"),
    CheckConstraint("kind <> 'person' OR person_id IS NOT NULL", name="person"),
    CheckConstraint(
        "NOT scopes && ARRAY['operate', 'audit'] OR cardinality(scopes) = 1"
        " OR scopes && ARRAY['admin']",
        name="duties",
    ),
)
Index("ix_principals_person", principals.c.person_id)

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", Text, primary_key=True),
    Column("principal_id", Uuid, ForeignKey("principals.id"), nullable=False, index=True),
    Column("secret_sha256", LargeBinary, nullable=False),
    Column("scopes", ARRAY(Text), nullable=False),
    Column("created_at", Moment, nullable=False, server_default=NOW),
    Column("expires_at", Moment),
    Column("revoked_at", Moment),
    Column("last_used_at", Moment),
    *_seal(),
)

departments = Table(
    "departments",
    metadata,
    Column("name", Text, primary_key=True),
    Column("title", Text, nullable=False, comment="as people call it, in whatever script"),
    Column("created_at", Moment, nullable=False, server_default=NOW),
    Column("closed_at", Moment),
)

person_duties = Table(
    "person_duties",
    metadata,
    Column("person_id", Uuid, primary_key=True),
    Column("duty", Text, nullable=False),
    UniqueConstraint("person_id", "duty"),
    comment="one duty a person: what keeps the administrators apart",
)

_DEPARTMENTAL_ROLES = "role IN ('staff', 'archive_manager', 'department_head')"
_DUTY = f"""CASE WHEN revoked_at IS NOT NULL THEN NULL
        WHEN {_DEPARTMENTAL_ROLES} THEN 'business'
        WHEN role = 'compliance' THEN 'compliance'
        WHEN role = 'it_operations' THEN 'system'
        WHEN role = 'security_administrator' THEN 'security'
        WHEN role = 'auditor' THEN 'audit' END"""

role_grants = Table(
    "role_grants",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("principal_id", Uuid, ForeignKey("principals.id"), nullable=False),
    Column("person_id", Uuid, nullable=False),
    Column(
        "role",
        Text,
        CheckConstraint(
            f"{_DEPARTMENTAL_ROLES} OR role IN"
            " ('compliance', 'it_operations', 'security_administrator', 'auditor')",
            name="role",
        ),
        nullable=False,
    ),
    Column("department", Text, ForeignKey("departments.name")),
    Column("class", Text, ForeignKey("classes.name"), key="class_name"),
    Column("deputy_of", Uuid, comment="the person in whose place"),
    Column("starts_at", Moment, nullable=False, server_default=NOW),
    Column("ends_at", Moment),
    Column("granted_at", Moment, nullable=False, server_default=NOW),
    Column("granted_by", Uuid, ForeignKey("principals.id"), nullable=False),
    Column("revoked_at", Moment),
    Column("duty", Text, Computed(_DUTY, persisted=True)),
    *_seal(),
    CheckConstraint(f"({_DEPARTMENTAL_ROLES}) = (department IS NOT NULL)", name="where"),
    CheckConstraint('"class" IS NULL OR department IS NOT NULL', name="class"),
    CheckConstraint("deputy_of IS NULL OR ends_at IS NOT NULL", name="deputy_ends"),
    CheckConstraint("deputy_of <> person_id", name="deputy"),
    CheckConstraint("ends_at > starts_at", name="period"),
    CheckConstraint("granted_by <> principal_id", name="own"),
    ForeignKeyConstraint(
        ["person_id", "duty"], ["person_duties.person_id", "person_duties.duty"], name="duty"
    ),
)
Index(
    "ix_role_grants_once",
    *("principal_id", "role", "department", "class_name", "deputy_of"),
    unique=True,
    postgresql_nulls_not_distinct=True,
    postgresql_where=role_grants.c.revoked_at.is_(None),
    _table=role_grants,
)
Index("ix_role_grants_principal", role_grants.c.principal_id)
Index("ix_role_grants_page", desc("granted_at"), desc("id"), _table=role_grants)

sessions = Table(
    "sessions",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("principal_id", Uuid, ForeignKey("principals.id"), nullable=False),
    Column("token_sha256", LargeBinary, nullable=False),
    Column(
        "method",
        Text,
        CheckConstraint("method IN ('password', 'oidc')", name="method"),
        nullable=False,
    ),
    Column("began_at", Moment, nullable=False, server_default=NOW),
    Column("expires_at", Moment, nullable=False),
    Column("stepped_up_at", Moment),
    Column("revoked_at", Moment),
    Column("last_seen_at", Moment, nullable=False, server_default=NOW),
    *_seal(),
)
Index("ix_sessions_principal", sessions.c.principal_id)
Index("ix_sessions_page", desc("began_at"), desc("id"), _table=sessions)

oidc_identities = Table(
    "oidc_identities",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("principal_id", Uuid, ForeignKey("principals.id"), nullable=False),
    Column("issuer", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("linked_at", Moment, nullable=False, server_default=NOW),
    Column("linked_by", Uuid, ForeignKey("principals.id"), nullable=False),
    Column("revoked_at", Moment),
    *_seal(),
)
Index(
    "ix_oidc_identities_once",
    oidc_identities.c.issuer,
    oidc_identities.c.subject,
    unique=True,
    postgresql_where=oidc_identities.c.revoked_at.is_(None),
)
Index(
    "ix_oidc_identities_page",
    oidc_identities.c.principal_id,
    desc(oidc_identities.c.linked_at),
    desc(oidc_identities.c.id),
)

oidc_sign_ins = Table(
    "oidc_sign_ins",
    metadata,
    Column("state_sha256", LargeBinary, primary_key=True),
    Column("browser_sha256", LargeBinary, nullable=False),
    Column("nonce", Text, nullable=False),
    Column("code_verifier", Text, nullable=False),
    Column("step_up_session", Uuid, comment="asks for a step-up; NULL: a sign-in"),
    Column("began_at", Moment, nullable=False, server_default=NOW),
    comment="begun, and not come back from the provider yet",
)
Index("ix_oidc_sign_ins_began", oidc_sign_ins.c.began_at)
local_users = Table(
    "local_users",
    metadata,
    Column("id", Uuid, primary_key=True, comment="of the principal too"),
    Column("principal_id", Uuid, ForeignKey("principals.id"), nullable=False),
    Column("password_hash", Text, comment="argon2id, PHC string"),
    Column("totp_secret", Text, comment="wrapped under the KEK authority"),
    Column("recovery_sha256", ARRAY(LargeBinary), nullable=False, server_default=text("'{}'")),
    Column("enrolled_at", Moment, comment="when they first had credentials of their own"),
    Column("enrolment_sha256", LargeBinary, comment="while set, no credentials count"),
    Column("enrolment_expires_at", Moment),
    Column("revoked_at", Moment),
    Column("totp_last_step", BigInteger, comment="a code of this step or before counts no more"),
    *_seal(),
    CheckConstraint("id = principal_id", name="own"),
)
Index(
    "ix_local_users_enrolling",
    local_users.c.enrolment_expires_at,
    postgresql_where=text("enrolment_expires_at IS NOT NULL"),
)

sign_in_attempts = Table(
    "sign_in_attempts",
    metadata,
    Column("login_sha256", LargeBinary, primary_key=True),
    Column("failures", Integer, nullable=False),
    Column("next_at", Moment, nullable=False, comment="not before"),
)
Index("ix_sign_in_attempts_next", sign_in_attempts.c.next_at)

approvals = Table(
    "approvals",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("action", Text, nullable=False, comment="vault.access.policy.Action"),
    Column("target", Text, nullable=False, comment="canonical JSON"),
    Column("department", Text, comment="owns the target; NULL: the vault"),
    Column("purpose", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("ticket", Text),
    Column("uses", Integer, CheckConstraint("uses BETWEEN 1 AND 100", name="uses"), nullable=False),
    Column("lasts_seconds", Integer, nullable=False),
    Column("requested_by", Uuid, ForeignKey("principals.id"), nullable=False),
    Column("requested_person", Uuid),
    Column("requested_at", Moment, nullable=False, server_default=NOW),
    Column("decide_before", Moment, nullable=False),
    Column("escalated_at", Moment),
    Column(
        "state",
        Text,
        CheckConstraint(
            "state IN ('requested', 'approved', 'denied', 'withdrawn', 'expired')", name="state"
        ),
        nullable=False,
    ),
    Column("decided_by", Uuid, ForeignKey("principals.id")),
    Column("decided_person", Uuid),
    Column("decided_for", Uuid, comment="the person in whose place a deputy decided"),
    Column("decided_at", Moment),
    Column("comment", Text),
    Column("seal", LargeBinary),
    Column("seal_key_id", Text),
    CheckConstraint("decided_by <> requested_by", name="own"),
    CheckConstraint("decided_person <> requested_person", name="same_person"),
    CheckConstraint("decided_for <> requested_person", name="own_deputy"),
    CheckConstraint(
        "(state IN ('approved', 'denied')) = (decided_person IS NOT NULL)", name="decided"
    ),
)
Index("ix_approvals_page", desc("requested_at"), desc("id"), _table=approvals)
Index(
    "ix_approvals_open",
    approvals.c.decide_before,
    postgresql_where=text("state = 'requested'"),
)

grants = Table(
    "grants",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("approval_id", Uuid, ForeignKey("approvals.id"), nullable=False, unique=True),
    Column("principal_id", Uuid, ForeignKey("principals.id"), nullable=False),
    Column("action", Text, nullable=False),
    Column("target", Text, nullable=False),
    Column("department", Text),
    Column("granted_at", Moment, nullable=False, server_default=NOW),
    Column("expires_at", Moment, nullable=False),
    Column("max_uses", Integer, nullable=False),
    Column("remaining", Integer, nullable=False),
    Column("revoked_at", Moment),
    Column("seal", LargeBinary),
    Column("seal_key_id", Text),
    CheckConstraint("remaining BETWEEN 0 AND max_uses", name="remaining"),
    comment="what approvals gave",
)
Index("ix_grants_usable", grants.c.principal_id, grants.c.action)
Index("ix_grants_page", desc("granted_at"), desc("id"), _table=grants)

seal_keys = Table(
    "seal_keys",
    metadata,
    Column("id", Text, primary_key=True),
    Column("wrapped_key", Text, nullable=False, comment="under the KEK authority"),
    Column("created_at", Moment, nullable=False, server_default=NOW),
    Column("retired_at", Moment, comment="checks only, until every row moved to the one in use"),
)
Index(
    "ix_seal_keys_in_use",
    text("(true)"),
    unique=True,
    postgresql_where=seal_keys.c.retired_at.is_(None),
    _table=seal_keys,
)

findings = Table(
    "findings",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("at", Moment, nullable=False, server_default=NOW),
    Column("kind", Text, CheckConstraint("kind IN ('seal-broken')", name="kind"), nullable=False),
    Column("subject", Text, nullable=False, comment="the table of the row it is about"),
    Column("subject_id", Text, nullable=False),
    Column("state_sha256", LargeBinary, nullable=False, comment="of the row as it was found"),
    Column(
        "found_by",
        Text,
        CheckConstraint("found_by IN ('api', 'worker')", name="found_by"),
        nullable=False,
    ),
    UniqueConstraint("kind", "subject", "subject_id", "state_sha256"),
)
Index("ix_findings_page", desc(findings.c.at), desc(findings.c.id))

documents = Table(
    "documents",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("name", Text, nullable=False),
    Column("class", Text, ForeignKey("classes.name"), nullable=False, key="class_name"),
    Column("department", Text, nullable=False),
    Column(
        "state",
        Text,
        CheckConstraint("state IN ('live', 'binned', 'purged')", name="state"),
        nullable=False,
    ),
    Column("revision", Integer, nullable=False, comment="counts changes of metadata, from 1"),
    Column("newest_version", Integer, nullable=False),
    Column("created_at", Moment, nullable=False, server_default=NOW),
    Column("created_by", Uuid, nullable=False),
    Column("binned_at", Moment),
    Column("purged_at", Moment),
)
# One index per way a page is asked for, each ending in the keyset (created_at, id), newest first.
for _columns in ((), ("department",), ("class_name",), ("department", "class_name")):
    Index(
        "_".join(("ix_documents_page", *_columns)),
        *(documents.c[name] for name in _columns),
        documents.c.state,
        desc(documents.c.created_at),
        desc(documents.c.id),
    )
Index(
    "ix_documents_name_trigrams",
    documents.c.name,
    postgresql_using="gin",
    postgresql_ops={"name": "gin_trgm_ops"},
)

kek_versions = Table(
    "kek_versions",
    metadata,
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("created_at", Moment, nullable=False, server_default=NOW),
    comment="of the KEK documents: those that rows may be wrapped under",
)

versions = Table(
    "versions",
    metadata,
    Column("document_id", Uuid, ForeignKey("documents.id"), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("id", Uuid, nullable=False),
    Column("object_id", Uuid, nullable=False, unique=True),
    Column("site", Text, nullable=False, comment="where the upload stored it first"),
    Column("format", SmallInteger, nullable=False, comment="keymgmt.stream.ObjectFormat"),
    Column("size_bytes", BigInteger, nullable=False),
    Column("ciphertext_size_bytes", BigInteger, nullable=False),
    Column("ciphertext_sha256", LargeBinary, nullable=False),
    Column("media_type", Text, nullable=False),
    Column("claimed_media_type", Text),
    Column("wrapped_key", Text, nullable=False),
    Column(
        "kek_version",
        Integer,
        Computed("CAST(substr(split_part(wrapped_key, ':', 2), 2) AS INTEGER)", persisted=True),
        ForeignKey("kek_versions.version"),
        nullable=False,
    ),
    Column("key_commitment", LargeBinary, nullable=False),
    Column("receipt", Uuid, nullable=False, comment="the access event that recorded it"),
    Column("created_at", Moment, nullable=False, server_default=NOW),
    Column("created_by", Uuid, nullable=False),
    Column("locked_until", Moment, comment="object lock at the stores; NULL: none"),
)

document_changes = Table(
    "document_changes",
    metadata,
    Column("document_id", Uuid, ForeignKey("documents.id"), primary_key=True),
    Column("revision", Integer, primary_key=True),
    Column("field", Text, primary_key=True),
    Column("before", Text),
    Column("after", Text),
    Column("changed_at", Moment, nullable=False, server_default=NOW),
    Column("changed_by", Uuid, ForeignKey("principals.id"), nullable=False),
)

holds = Table(
    "holds",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("document_id", Uuid, ForeignKey("documents.id"), nullable=False),
    Column("reason", Text, nullable=False),
    Column("placed_at", Moment, nullable=False, server_default=NOW),
    Column("placed_by", Uuid, ForeignKey("principals.id"), nullable=False),
    Column("released_at", Moment),
    Column("released_by", Uuid, ForeignKey("principals.id")),
)
Index("ix_holds_in_force", holds.c.document_id, postgresql_where=holds.c.released_at.is_(None))
Index("ix_holds_page", desc(holds.c.placed_at), desc(holds.c.id))

processes = Table(
    "processes",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("started_at", Moment, nullable=False, server_default=NOW),
    Column("alive_until", Moment, nullable=False),
)

uploads = Table(
    "uploads",
    metadata,
    Column("object_id", Uuid, primary_key=True),
    Column("process_id", Uuid, ForeignKey("processes.id"), nullable=False, index=True),
    Column("site", Text, nullable=False),
    Column(
        "state",
        Text,
        CheckConstraint("state IN ('open', 'abandoned', 'swept')", name="state"),
        nullable=False,
    ),
    Column("swept_at", Moment),
)

idempotency_keys = Table(
    "idempotency_keys",
    metadata,
    Column("principal_id", Uuid, ForeignKey("principals.id"), primary_key=True),
    Column("route", Text, primary_key=True),
    Column("key_sha256", LargeBinary, primary_key=True),
    Column("object_id", Uuid, nullable=False, comment="whose upload row tells if it still runs"),
    Column("document_id", Uuid, ForeignKey("documents.id"), index=True),
    Column("fingerprint", LargeBinary),
    Column("created_at", Moment, nullable=False, server_default=NOW, index=True),
)

journal = Table(
    "journal",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("object_id", Uuid, nullable=False),
    Column("site", Text, nullable=False),
    Column(
        "operation",
        Text,
        CheckConstraint("operation IN ('copy', 'delete')", name="operation"),
        nullable=False,
    ),
    Column("created_at", Moment, nullable=False, server_default=NOW),
    Column("attempts", Integer, nullable=False, server_default=text("0")),
    Column(
        "due_at",
        Moment,
        nullable=False,
        server_default=NOW,
        comment="leased: when the lease ends",
    ),
    Column("last_error", Text),
    Column("epoch", Integer, nullable=False, comment="the site epoch in which it became necessary"),
    Column(
        "reason",
        Text,
        CheckConstraint(
            "reason IN ('upload', 'debt', 'repair', 'resync', 'purge', 'sweep')", name="reason"
        ),
        nullable=False,
    ),
    Column(
        "priority",
        SmallInteger,
        nullable=False,
        server_default=text("0"),
        comment="0: new work; 1: bulk, which new work overtakes",
    ),
    Column("size_bytes", BigInteger, nullable=False, server_default=text("0")),
    Column("lease", Uuid, comment="drawn by whoever works on it; another's ends this one's rights"),
    Column("upload_id", Text, comment="a multipart upload to go on with"),
    Column("parked_at", Moment),
    UniqueConstraint("object_id", "site", "operation", "epoch", name="uq_journal_object_id"),
)
Index(
    "ix_journal_due",
    journal.c.site,
    journal.c.priority,
    journal.c.due_at,
    postgresql_where=journal.c.parked_at.is_(None),
)

replicas = Table(
    "replicas",
    metadata,
    Column("object_id", Uuid, primary_key=True),
    Column("site", Text, primary_key=True),
    Column("verified_at", Moment, comment="when its bytes were read back and hashed"),
    Column("lost_at", Moment, comment="when it was found missing or wrong; NULL once repaired"),
)
Index("ix_replicas_verified", replicas.c.verified_at)
Index("ix_replicas_lost", replicas.c.lost_at, postgresql_where=replicas.c.lost_at.is_not(None))

tombstones = Table(
    "tombstones",
    metadata,
    Column("object_id", Uuid, primary_key=True),
    Column("deleted_at", Moment, nullable=False, server_default=NOW),
)

sites = Table(
    "sites",
    metadata,
    Column("name", Text, primary_key=True),
    Column(
        "epoch",
        Integer,
        nullable=False,
        server_default=text("1"),
        comment="the site epoch of its last fencing or admission; processes of another are refused",
    ),
    Column("is_fenced", Boolean, nullable=False, server_default=text("false")),
    Column(
        "marker", Uuid, comment="stands in an object at the site, so that an emptied one is known"
    ),
    Column("changed_at", Moment, nullable=False, server_default=NOW),
)

topology = Table(
    "topology",
    metadata,
    Column(
        "singleton",
        SmallInteger,
        CheckConstraint("singleton = 1", name="one_row"),
        primary_key=True,
        autoincrement=False,
    ),
    Column(
        "epoch",
        Integer,
        nullable=False,
        server_default=text("1"),
        comment="the newest site epoch",
    ),
    Column("system_identifier", Text),
    Column(
        "timeline",
        Integer,
        comment="of PostgreSQL: another one means a promotion or a restore",
    ),
    Column("sweep_held_since", Moment, comment="nothing is swept until a person confirms"),
    Column(
        "sweep_held_why",
        Text,
        CheckConstraint("sweep_held_why IN ('database', 'failover')", name="why"),
    ),
)

incidents = Table(
    "incidents",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("at", Moment, nullable=False, server_default=NOW),
    Column(
        "kind",
        Text,
        CheckConstraint(
            "kind IN ('missing', 'damaged', 'unexpected', 'emptied', 'parked')", name="kind"
        ),
        nullable=False,
    ),
    Column("site", Text, nullable=False),
    Column("object_id", Uuid),
    Column("document_id", Uuid),
    Column("version", Integer),
    Column(
        "found_by",
        Text,
        CheckConstraint(
            "found_by IN ('read', 'copy', 'scrub', 'verify', 'watch')", name="found_by"
        ),
        nullable=False,
    ),
    Column("resolved_at", Moment),
    Column("resolution", Text),
)
Index("ix_incidents_page", desc(incidents.c.at), desc(incidents.c.id))
Index(
    "ix_incidents_open",
    incidents.c.object_id,
    incidents.c.site,
    incidents.c.kind,
    unique=True,
    postgresql_where=incidents.c.resolved_at.is_(None),
)

orphans = Table(
    "orphans",
    metadata,
    Column("object_id", Uuid, primary_key=True),
    Column("site", Text, primary_key=True),
    Column("size_bytes", BigInteger, nullable=False),
    Column("first_seen_at", Moment, nullable=False, server_default=NOW),
    Column("last_seen_at", Moment, nullable=False, server_default=NOW),
)
Index(
    "ix_orphans_page",
    desc(orphans.c.first_seen_at),
    desc(orphans.c.object_id),
    desc(orphans.c.site),
)

jobs = Table(
    "jobs",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column(
        "kind",
        Text,
        CheckConstraint(
            "kind IN ('rewrap', 'shred', 'drill', 'recovery', 'scrub', 'verify', 'resync-a', 'resync-b')",
            name="kind",
        ),
        nullable=False,
    ),
    Column(
        "state",
        Text,
        CheckConstraint(
            "state IN ('queued', 'running', 'done', 'failed', 'stopped')", name="state"
        ),
        nullable=False,
        server_default=text("'queued'"),
    ),
    Column("done", BigInteger, nullable=False, server_default=text("0")),
    Column("total", BigInteger),
    Column(
        "place",
        JSONB,
        nullable=False,
        server_default=text("'{}'"),
        comment="where to go on after a stop or a kill",
    ),
    Column("result", JSONB),
    Column("error", Text),
    Column("stop_requested", Boolean, nullable=False, server_default=text("false")),
    Column("created_at", Moment, nullable=False, server_default=NOW),
    Column("created_by", Uuid),
    Column(
        "due_at",
        Moment,
        nullable=False,
        server_default=NOW,
        comment="queued: when to start; running: when the lease ends",
    ),
    Column("lease", Uuid, comment="drawn by whoever runs it; another's ends this one's rights"),
    Column("resumed_at", Moment),
    Column("resumed_done", BigInteger, nullable=False, server_default=text("0")),
    Column("finished_at", Moment),
)
Index("ix_jobs_page", desc(jobs.c.created_at), desc(jobs.c.id))
Index(
    "ix_jobs_one_at_a_time",
    jobs.c.kind,
    unique=True,
    postgresql_where=jobs.c.state.in_(("queued", "running")),
)

shred_epochs = Table(
    "shred_epochs",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column(
        "kek_version",
        Integer,
        nullable=False,
        comment="what the survivors are wrapped under; all before died",
    ),
    Column("began_at", Moment, nullable=False, server_default=NOW),
    Column("finished_at", Moment),
    Column("certificate", JSONB),
)

released_versions = Table(
    "released_versions",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("document_id", Uuid, nullable=False),
    Column("number", Integer, nullable=False),
    Column("kek_version", Integer, nullable=False),
    Column("released_at", Moment, nullable=False, server_default=NOW),
    Column("epoch", Integer, ForeignKey("shred_epochs.number"), index=True),
    comment="purged; old copies of their wrapped keys open until an epoch",
)
Index(
    "ix_released_versions_waiting",
    released_versions.c.kek_version,
    postgresql_where=released_versions.c.epoch.is_(None),
)

recovery_keys = Table(
    "recovery_keys",
    metadata,
    Column("id", Text, primary_key=True),
    Column("public_key", LargeBinary, nullable=False),
    Column("registered_at", Moment, nullable=False, server_default=NOW),
    Column("registered_by", Uuid, nullable=False),
)

recovery_epochs = Table(
    "recovery_epochs",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("epoch_key_id", Uuid, nullable=False, comment="names its objects; never the key itself"),
    Column("recovery_key_id", Text, ForeignKey("recovery_keys.id"), nullable=False),
    Column("began_at", Moment, nullable=False, server_default=NOW),
    comment="those that recovery blobs may be sealed under",
)

recovery_blobs = Table(
    "recovery_blobs",
    metadata,
    Column("document_id", Uuid, primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("epoch", Integer, ForeignKey("recovery_epochs.number"), nullable=False),
    Column("blob", LargeBinary, nullable=False, comment="keymgmt.recovery"),
    ForeignKeyConstraint(
        ["document_id", "number"], ["versions.document_id", "versions.number"], ondelete="CASCADE"
    ),
)

signing_keys = Table(
    "signing_keys",
    metadata,
    Column("id", Text, primary_key=True),
    Column("public_key", LargeBinary, nullable=False),
    Column("sealed_seed", Text, nullable=False),
    Column("created_at", Moment, nullable=False, server_default=NOW),
    Column("retired_at", Moment),
)
Index(
    "ix_signing_keys_in_use",
    text("(true)"),
    unique=True,
    postgresql_where=signing_keys.c.retired_at.is_(None),
    _table=signing_keys,
)

access_events = Table(
    "access_events",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("at", Moment, nullable=False, server_default=NOW),
    Column("type", Text, nullable=False, comment="vault.accesslog.event.EventType"),
    Column("principal_id", Uuid),
    Column("api_key_id", Text),
    Column("session_id", Uuid),
    Column("request_id", Text),
    Column("document_id", Uuid),
    Column("version", Integer),
    Column("detail", JSONB, nullable=False),
)

notifications = Table(
    "notifications",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("at", Moment, nullable=False, server_default=NOW),
    Column(
        "kind",
        Text,
        CheckConstraint(
            "kind IN ('approval.requested', 'approval.decided', 'approval.escalated', "
            "'approval.expired', 'grant.revoked')",
            name="kind",
        ),
        nullable=False,
    ),
    Column("subject_id", Uuid, nullable=False, comment="of the approval"),
    Column(
        "channel",
        Text,
        CheckConstraint("channel IN ('webhook', 'smtp')", name="channel"),
        nullable=False,
    ),
    Column(
        "attempts",
        Integer,
        nullable=False,
        server_default=text("0"),
        comment="raised by each claim; who holds an older number settles nothing",
    ),
    Column(
        "next_at",
        Moment,
        nullable=False,
        server_default=NOW,
        comment="claimed: when the lease ends",
    ),
    Column("delivered_at", Moment),
    Column("parked_at", Moment),
    Column(
        "last_error",
        Text,
        CheckConstraint("last_error ~ '^[a-z0-9-]{1,40}$'", name="last_error"),
        comment="a word of ours, never the words of the other side",
    ),
    CheckConstraint("delivered_at IS NULL OR parked_at IS NULL", name="settled_once"),
)
Index(
    "ix_notifications_due",
    notifications.c.channel,
    notifications.c.next_at,
    postgresql_where=notifications.c.delivered_at.is_(None) & notifications.c.parked_at.is_(None),
)
Index(
    "ix_notifications_parked",
    notifications.c.channel,
    postgresql_where=notifications.c.parked_at.is_not(None),
)
Index(
    "ix_notifications_delivered",
    notifications.c.delivered_at,
    postgresql_where=notifications.c.delivered_at.is_not(None),
)
