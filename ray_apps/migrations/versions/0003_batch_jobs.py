"""Scorings asked for over HTTP.

Revision: 0003_batch_jobs
"""

import sqlalchemy as sa
from alembic import op

revision = "0003_batch_jobs"
down_revision = "0002_predictions"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "batch_jobs",
        sa.Column("job_id", sa.Text, primary_key=True),
        sa.Column("business_id", sa.Text, nullable=False),
        sa.Column("customers", sa.Text),
        sa.Column("as_of", sa.BigInteger, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("total", sa.BigInteger),
        sa.Column("done", sa.BigInteger, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("started_at", sa.BigInteger),
        sa.Column("finished_at", sa.BigInteger),
        sa.Column("result", sa.Text),
        sa.Column("error", sa.Text),
        sa.CheckConstraint("status IN ('queued', 'running', 'finished', 'failed')", name="batch_jobs_status"),
    )
    op.create_index("batch_jobs_business", "batch_jobs", ["business_id", "status"])
    op.create_index("batch_jobs_created", "batch_jobs", ["status", "created_at"])


def downgrade() -> None:
    op.drop_table("batch_jobs")
