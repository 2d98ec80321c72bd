"""Local users: passwords, TOTP secrets and recovery codes; and how often somebody failed to sign in."""

from __future__ import annotations

from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the tables."""
    for part in (TABLES, GRANTS):
        op.execute(part)


TABLES = """
CREATE TABLE local_users (
    id UUID NOT NULL,
    principal_id UUID NOT NULL,
    password_hash TEXT,
    totp_secret TEXT,
    recovery_sha256 BYTEA[] DEFAULT '{}' NOT NULL,
    enrolled_at TIMESTAMP WITH TIME ZONE,
    enrolment_sha256 BYTEA,
    enrolment_expires_at TIMESTAMP WITH TIME ZONE,
    revoked_at TIMESTAMP WITH TIME ZONE,
    totp_last_step BIGINT,
    authority_epoch INTEGER DEFAULT 1 NOT NULL,
    seal BYTEA,
    seal_key_id TEXT,
    CONSTRAINT pk_local_users PRIMARY KEY (id),
    CONSTRAINT fk_local_users_principal_id FOREIGN KEY (principal_id) REFERENCES principals (id),
    CONSTRAINT ck_local_users_own CHECK (id = principal_id)
);
CREATE INDEX ix_local_users_enrolling ON local_users (enrolment_expires_at)
    WHERE enrolment_expires_at IS NOT NULL;
COMMENT ON COLUMN local_users.id IS 'of the principal too';
COMMENT ON COLUMN local_users.password_hash IS 'argon2id, PHC string';
COMMENT ON COLUMN local_users.totp_secret IS 'wrapped under the KEK authority';
COMMENT ON COLUMN local_users.enrolled_at IS 'when they first had credentials of their own';
COMMENT ON COLUMN local_users.enrolment_sha256 IS 'while set, no credentials count';
COMMENT ON COLUMN local_users.totp_last_step IS 'a code of this step or before counts no more';
COMMENT ON COLUMN local_users.authority_epoch IS 'rises with every change of the principal''s authority';

CREATE TABLE sign_in_attempts (
    login_sha256 BYTEA NOT NULL,
    failures INTEGER NOT NULL,
    next_at TIMESTAMP WITH TIME ZONE NOT NULL,
    CONSTRAINT pk_sign_in_attempts PRIMARY KEY (login_sha256)
);
CREATE INDEX ix_sign_in_attempts_next ON sign_in_attempts (next_at);
COMMENT ON COLUMN sign_in_attempts.next_at IS 'not before';
"""

GRANTS = """
GRANT SELECT, INSERT, UPDATE (password_hash, totp_secret, recovery_sha256, enrolled_at, enrolment_sha256,
    enrolment_expires_at, revoked_at, totp_last_step, authority_epoch, seal, seal_key_id)
    ON local_users TO strongroom_service;
GRANT SELECT, INSERT, UPDATE (failures, next_at), DELETE ON sign_in_attempts TO strongroom_service;
"""
