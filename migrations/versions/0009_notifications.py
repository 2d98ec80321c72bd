"""Notifications: an outbox, written with what they tell of and worked off by the worker."""

from __future__ import annotations

from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the table."""
    for part in (TABLE, GRANTS):
        op.execute(part)


TABLE = """
CREATE TABLE notifications (
    id UUID NOT NULL,
    at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    kind TEXT NOT NULL CONSTRAINT ck_notifications_kind CHECK (kind IN (
        'approval.requested', 'approval.decided', 'approval.escalated', 'approval.expired', 'grant.revoked')),
    subject_id UUID NOT NULL,
    channel TEXT NOT NULL CONSTRAINT ck_notifications_channel CHECK (channel IN ('webhook', 'smtp')),
    attempts INTEGER DEFAULT 0 NOT NULL,
    next_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    delivered_at TIMESTAMP WITH TIME ZONE,
    parked_at TIMESTAMP WITH TIME ZONE,
    last_error TEXT CONSTRAINT ck_notifications_last_error CHECK (last_error ~ '^[a-z0-9-]{1,40}$'),
    CONSTRAINT pk_notifications PRIMARY KEY (id),
    CONSTRAINT ck_notifications_settled_once CHECK (delivered_at IS NULL OR parked_at IS NULL)
);
CREATE INDEX ix_notifications_due ON notifications (channel, next_at)
    WHERE delivered_at IS NULL AND parked_at IS NULL;
CREATE INDEX ix_notifications_parked ON notifications (channel) WHERE parked_at IS NOT NULL;
CREATE INDEX ix_notifications_delivered ON notifications (delivered_at) WHERE delivered_at IS NOT NULL;
COMMENT ON COLUMN notifications.subject_id IS 'of the approval';
COMMENT ON COLUMN notifications.attempts IS 'raised by each claim; who holds an older number settles nothing';
COMMENT ON COLUMN notifications.next_at IS 'claimed: when the lease ends';
COMMENT ON COLUMN notifications.last_error IS 'a word of ours, never the words of the other side';
"""

GRANTS = """
GRANT SELECT, INSERT (id, kind, subject_id, channel), DELETE,
    UPDATE (attempts, next_at, delivered_at, parked_at, last_error) ON notifications TO strongroom_service;
"""
