"""People: departments, roles with dates, sessions; and which acts were done through a session.

`person_duties` holds apart what nobody may do at once: a role grant that is not revoked refers to its person's
one duty, so a second duty is refused by the database whatever the service forgets.

Documents are seen by whoever has a role in one of several departments, so the policies compare with a list.
"""

from __future__ import annotations

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add columns and tables, and let the second wall take lists of departments."""
    for part in (PRINCIPALS, TABLES, EVENTS, POLICIES, CONTENT, GRANTS):
        op.execute(part)


DEPARTMENTAL = "role IN ('staff', 'archive_manager', 'department_head')"

PRINCIPALS = """
ALTER TABLE principals
    ADD kind TEXT DEFAULT 'application' NOT NULL
        CONSTRAINT ck_principals_kind CHECK (kind IN ('application', 'person')),
    ADD person_id UUID,
    ADD display_name TEXT,
    ADD CONSTRAINT ck_principals_scopes_of_applications CHECK ((kind = 'person') = (cardinality(scopes) = 0)),
    ADD CONSTRAINT ck_principals_person CHECK (kind <> 'person' OR person_id IS NOT NULL),
    ADD CONSTRAINT ck_principals_duties CHECK (
        NOT scopes && ARRAY['operate', 'audit'] OR cardinality(scopes) = 1 OR scopes && ARRAY['admin']);
CREATE INDEX ix_principals_person ON principals (person_id);
COMMENT ON COLUMN principals.person_id IS 'the natural person behind it, whichever their accounts';
COMMENT ON COLUMN principals.authority_epoch IS 'rises with every change of the principal''s authority';
COMMENT ON COLUMN api_keys.authority_epoch IS 'rises with every change of the principal''s authority';
"""

TABLES = f"""
CREATE TABLE departments (
    name TEXT NOT NULL,
    title TEXT NOT NULL,
    created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    closed_at TIMESTAMP WITH TIME ZONE,
    CONSTRAINT pk_departments PRIMARY KEY (name)
);
COMMENT ON COLUMN departments.title IS 'as people call it, in whatever script';

CREATE TABLE person_duties (
    person_id UUID NOT NULL,
    duty TEXT NOT NULL,
    CONSTRAINT pk_person_duties PRIMARY KEY (person_id),
    CONSTRAINT uq_person_duties_person_id_duty UNIQUE (person_id, duty)
);
COMMENT ON TABLE person_duties IS 'one duty a person: what keeps the administrators apart';

CREATE TABLE role_grants (
    id UUID NOT NULL,
    principal_id UUID NOT NULL,
    person_id UUID NOT NULL,
    role TEXT NOT NULL CONSTRAINT ck_role_grants_role CHECK (
        {DEPARTMENTAL} OR role IN ('compliance', 'it_operations', 'security_administrator', 'auditor')),
    department TEXT,
    class TEXT,
    deputy_of UUID,
    starts_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    ends_at TIMESTAMP WITH TIME ZONE,
    granted_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    granted_by UUID NOT NULL,
    revoked_at TIMESTAMP WITH TIME ZONE,
    duty TEXT GENERATED ALWAYS AS (CASE WHEN revoked_at IS NOT NULL THEN NULL
        WHEN {DEPARTMENTAL} THEN 'business'
        WHEN role = 'compliance' THEN 'compliance'
        WHEN role = 'it_operations' THEN 'system'
        WHEN role = 'security_administrator' THEN 'security'
        WHEN role = 'auditor' THEN 'audit' END) STORED,
    authority_epoch INTEGER DEFAULT 1 NOT NULL,
    seal BYTEA,
    seal_key_id TEXT,
    CONSTRAINT pk_role_grants PRIMARY KEY (id),
    CONSTRAINT fk_role_grants_principal_id FOREIGN KEY (principal_id) REFERENCES principals (id),
    CONSTRAINT fk_role_grants_department FOREIGN KEY (department) REFERENCES departments (name),
    CONSTRAINT fk_role_grants_class_name FOREIGN KEY (class) REFERENCES classes (name),
    CONSTRAINT fk_role_grants_granted_by FOREIGN KEY (granted_by) REFERENCES principals (id),
    CONSTRAINT duty FOREIGN KEY (person_id, duty) REFERENCES person_duties (person_id, duty),
    CONSTRAINT ck_role_grants_where CHECK (({DEPARTMENTAL}) = (department IS NOT NULL)),
    CONSTRAINT ck_role_grants_class CHECK (class IS NULL OR department IS NOT NULL),
    CONSTRAINT ck_role_grants_deputy_ends CHECK (deputy_of IS NULL OR ends_at IS NOT NULL),
    CONSTRAINT ck_role_grants_deputy CHECK (deputy_of <> person_id),
    CONSTRAINT ck_role_grants_period CHECK (ends_at > starts_at),
    CONSTRAINT ck_role_grants_own CHECK (granted_by <> principal_id)
);
CREATE UNIQUE INDEX ix_role_grants_once ON role_grants (principal_id, role, department, class, deputy_of)
    NULLS NOT DISTINCT WHERE revoked_at IS NULL;
CREATE INDEX ix_role_grants_principal ON role_grants (principal_id);
CREATE INDEX ix_role_grants_page ON role_grants (granted_at DESC, id DESC);
COMMENT ON COLUMN role_grants.deputy_of IS 'the person in whose place';
COMMENT ON COLUMN role_grants.authority_epoch IS 'rises with every change of the principal''s authority';

CREATE TABLE sessions (
    id UUID NOT NULL,
    principal_id UUID NOT NULL,
    token_sha256 BYTEA NOT NULL,
    method TEXT NOT NULL CONSTRAINT ck_sessions_method CHECK (method IN ('password', 'oidc')),
    began_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    expires_at TIMESTAMP WITH TIME ZONE NOT NULL,
    stepped_up_at TIMESTAMP WITH TIME ZONE,
    revoked_at TIMESTAMP WITH TIME ZONE,
    last_seen_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    authority_epoch INTEGER DEFAULT 1 NOT NULL,
    seal BYTEA,
    seal_key_id TEXT,
    CONSTRAINT pk_sessions PRIMARY KEY (id),
    CONSTRAINT fk_sessions_principal_id FOREIGN KEY (principal_id) REFERENCES principals (id)
);
CREATE INDEX ix_sessions_principal ON sessions (principal_id);
CREATE INDEX ix_sessions_page ON sessions (began_at DESC, id DESC);
COMMENT ON COLUMN sessions.authority_epoch IS 'rises with every change of the principal''s authority';
"""

EVENTS = "ALTER TABLE access_events ADD session_id UUID"

DEPARTMENTS = "(SELECT nullif(current_setting('strongroom.departments', true), ''))"

POLICIES = f"""
ALTER POLICY department ON documents USING (
    department = ANY ((SELECT string_to_array({DEPARTMENTS}, ','))::text[]) OR (SELECT {DEPARTMENTS} = '*'));
"""

CONTENT = """
INSERT INTO departments (name, title)
SELECT name, name FROM (
    SELECT department AS name FROM documents
    UNION SELECT department FROM principals WHERE department <> '*') AS found
WHERE name IS NOT NULL;
"""

GRANTS = """
GRANT SELECT, INSERT, UPDATE (title, closed_at) ON departments TO strongroom_service;
GRANT SELECT, INSERT, DELETE ON person_duties TO strongroom_service;
GRANT SELECT, INSERT, UPDATE (revoked_at, authority_epoch, seal, seal_key_id) ON role_grants TO strongroom_service;
GRANT SELECT, INSERT, UPDATE (token_sha256, stepped_up_at, revoked_at, last_seen_at, seal, seal_key_id), DELETE
    ON sessions TO strongroom_service;
"""
