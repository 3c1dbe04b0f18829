"""Pictures: what was recognised, receipts with the keys to find them by, the ledger of points, challenges.

Revision: 0005_pictures
"""

import sqlalchemy as sa
from alembic import op

revision = "0005_pictures"
down_revision = "0004_questions"
branch_labels = None
depends_on = None

LEDGER_FIXED = "award_id, business_id, source_kind, source_id, recognition_id, points, reason, at"


def upgrade() -> None:
    op.create_table(
        "recognitions",
        sa.Column("business_id", sa.Text, primary_key=True),
        sa.Column("recognition_id", sa.Text, primary_key=True),
        sa.Column("customer_id", sa.Text),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("sha256", sa.Text, nullable=False),
        sa.Column("model_version", sa.Text, nullable=False),
        sa.Column("answer", sa.Text, nullable=False),
        sa.Column("latency_ms", sa.Double, nullable=False),
        sa.Column("context", sa.Text, nullable=False),
        sa.Column("sent", sa.Boolean, nullable=False),
    )
    op.create_index("recognitions_customer", "recognitions", ["business_id", "customer_id", "at"])
    op.create_index("recognitions_at", "recognitions", ["at"])
    op.create_table(
        "receipts",
        sa.Column("business_id", sa.Text, primary_key=True),
        sa.Column("receipt_id", sa.Text, primary_key=True),
        sa.Column("customer_id", sa.Text),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("merchant", sa.Text),
        sa.Column("day", sa.Date),
        sa.Column("total_minor", sa.BigInteger),
        sa.Column("currency", sa.Text),
        sa.Column("fingerprint", sa.LargeBinary),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("points", sa.BigInteger, nullable=False),
        sa.Column("flags", sa.Text, nullable=False),
        sa.Column("duplicate_of", sa.Text),
        sa.Column("decided_by", sa.Text),
        sa.Column("decided_at", sa.BigInteger),
        sa.Column("reason", sa.Text),
        sa.CheckConstraint("status IN ('award', 'review', 'refused', 'duplicate', 'approved', 'rejected')", name="receipts_status"),
        sa.CheckConstraint("points >= 0", name="receipts_points"),
    )
    op.create_index("receipts_status_at", "receipts", ["business_id", "status", "at"])
    op.create_index("receipts_customer", "receipts", ["business_id", "customer_id"])
    op.create_index("receipts_at", "receipts", ["at"])
    op.create_table(
        "receipt_keys",
        sa.Column("business_id", sa.Text, primary_key=True),
        sa.Column("key", sa.BigInteger, primary_key=True),
        sa.Column("receipt_id", sa.Text, primary_key=True),
    )
    op.create_table(
        "awards",
        sa.Column("award_id", sa.Text, primary_key=True),
        sa.Column("business_id", sa.Text, nullable=False),
        sa.Column("customer_id", sa.Text),
        sa.Column("source_kind", sa.Text, nullable=False),
        sa.Column("source_id", sa.Text, nullable=False),
        sa.Column("recognition_id", sa.Text, nullable=False),
        sa.Column("points", sa.BigInteger, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.CheckConstraint("source_kind IN ('receipt', 'challenge')", name="awards_source_kind"),
        sa.CheckConstraint("points >= 0", name="awards_points"),
        sa.UniqueConstraint("business_id", "source_kind", "source_id", name="awards_once"),
    )
    op.create_index("awards_customer", "awards", ["business_id", "customer_id", "at"])
    op.create_table(
        "challenges",
        sa.Column("business_id", sa.Text, primary_key=True),
        sa.Column("challenge_id", sa.Text, primary_key=True),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("wanted", sa.Text, nullable=False),
        sa.Column("min_confidence", sa.Double, nullable=False),
        sa.Column("points", sa.BigInteger, nullable=False),
        sa.Column("starts", sa.BigInteger),
        sa.Column("ends", sa.BigInteger),
        sa.CheckConstraint("kind IN ('product', 'scavenger', 'receipt')", name="challenges_kind"),
        sa.CheckConstraint("points >= 0", name="challenges_points"),
    )
    op.create_table(
        "challenge_progress",
        sa.Column("business_id", sa.Text, primary_key=True),
        sa.Column("challenge_id", sa.Text, primary_key=True),
        sa.Column("customer_id", sa.Text, primary_key=True),
        sa.Column("item", sa.Text, primary_key=True),
        sa.Column("recognition_id", sa.Text, nullable=False),
        sa.Column("at", sa.BigInteger, nullable=False),
    )
    op.create_index("challenge_progress_customer", "challenge_progress", ["business_id", "customer_id"])
    _protect_ledger()


def downgrade() -> None:
    for table in ("challenge_progress", "challenges", "awards", "receipt_keys", "receipts", "recognitions"):
        op.drop_table(table)  # its triggers go with it


def _protect_ledger() -> None:
    """Triggers that let entries only be added, and a customer's name only be taken out."""
    if op.get_bind().dialect.name == "sqlite":
        refuse = "BEGIN SELECT RAISE(ABORT, 'awards: entries are only added'); END"
        op.execute(f"CREATE TRIGGER awards_no_delete BEFORE DELETE ON awards {refuse}")
        op.execute(f"CREATE TRIGGER awards_no_update BEFORE UPDATE OF {LEDGER_FIXED} ON awards {refuse}")
        op.execute(f"CREATE TRIGGER awards_no_renaming BEFORE UPDATE ON awards WHEN NEW.customer_id IS NOT NULL {refuse}")
        return
    does = "EXECUTE FUNCTION refuse_change()"  # of 0004_questions
    op.execute(f"CREATE TRIGGER awards_no_change BEFORE DELETE OR TRUNCATE OR UPDATE OF {LEDGER_FIXED} ON awards FOR EACH STATEMENT {does}")
    op.execute(f"CREATE TRIGGER awards_no_renaming BEFORE UPDATE ON awards FOR EACH ROW WHEN (NEW.customer_id IS NOT NULL) {does}")
