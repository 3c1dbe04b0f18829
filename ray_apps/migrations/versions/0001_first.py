"""Keys, inbox, put-aside events, recommendations, feedback, landing marker.

Revision: 0001
"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

SEQ = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    op.create_table(
        "api_keys",
        sa.Column("key_id", sa.Text, primary_key=True),
        sa.Column("business_id", sa.Text, nullable=False),
        sa.Column("role", sa.Text, nullable=False),
        sa.Column("hash", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("revoked_at", sa.BigInteger),
        sa.CheckConstraint("role IN ('app', 'analyst', 'admin')", name="api_keys_role"),
    )
    op.create_table(
        "inbox",
        sa.Column("seq", SEQ, primary_key=True, autoincrement=True),
        sa.Column("business_id", sa.Text, nullable=False),
        sa.Column("event_id", sa.Text, nullable=False),
        sa.Column("customer_id", sa.Text, nullable=False),
        sa.Column("event_type", sa.Text, nullable=False),
        sa.Column("occurred_at", sa.BigInteger, nullable=False),
        sa.Column("received_at", sa.BigInteger, nullable=False),
        sa.Column("content_hash", sa.Text, nullable=False),
        sa.Column("payload", sa.Text, nullable=False),
        sa.UniqueConstraint("business_id", "event_id", name="inbox_event"),
        sqlite_autoincrement=True,
    )
    op.create_index("inbox_customer", "inbox", ["business_id", "customer_id", "seq"])
    op.create_table(
        "rejected_events",
        sa.Column("rejected_id", SEQ, primary_key=True, autoincrement=True),
        sa.Column("business_id", sa.Text, nullable=False),
        sa.Column("raw", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("received_at", sa.BigInteger, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("rejected_events_received", "rejected_events", ["received_at"])
    op.create_table(
        "recommendations",
        sa.Column("recommendation_id", sa.Text, primary_key=True),
        sa.Column("business_id", sa.Text, nullable=False),
        sa.Column("customer_id", sa.Text, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("model_version", sa.Text, nullable=False),
        sa.Column("degraded", sa.Boolean, nullable=False),
        sa.Column("coverage", sa.Text, nullable=False),
        sa.Column("payload", sa.Text, nullable=False),
    )
    op.create_index("recommendations_customer", "recommendations", ["business_id", "customer_id", "created_at"])
    op.create_index("recommendations_created", "recommendations", ["created_at"])
    op.create_table(
        "feedback",
        sa.Column("recommendation_id", sa.Text, primary_key=True),
        sa.Column("reward_id", sa.Text, primary_key=True),
        sa.Column("event_type", sa.Text, primary_key=True),
        sa.Column("business_id", sa.Text, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("metadata", sa.Text, nullable=False),
    )
    op.create_index("feedback_created", "feedback", ["business_id", "created_at"])
    op.create_table(
        "landed",
        sa.Column("marker", sa.Text, primary_key=True),
        sa.Column("seq", sa.BigInteger, nullable=False),
    )


def downgrade() -> None:
    for table in ("landed", "feedback", "recommendations", "rejected_events", "inbox", "api_keys"):
        op.drop_table(table)
