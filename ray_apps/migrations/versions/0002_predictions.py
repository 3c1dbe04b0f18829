"""Churn predictions, what was done about them, what came of them.

Revision: 0002_predictions
"""

import sqlalchemy as sa
from alembic import op

revision = "0002_predictions"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "predictions",
        sa.Column("prediction_id", sa.Text, primary_key=True),
        sa.Column("business_id", sa.Text, nullable=False),
        sa.Column("customer_id", sa.Text, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("as_of", sa.BigInteger, nullable=False),
        sa.Column("model_version", sa.Text, nullable=False),
        sa.Column("coverage", sa.Text, nullable=False),
        sa.Column("degraded", sa.Boolean, nullable=False),
        sa.Column("active", sa.Boolean, nullable=False),
        sa.Column("churn_30", sa.Double, nullable=False),
        sa.Column("churn_60", sa.Double, nullable=False),
        sa.Column("churn_90", sa.Double, nullable=False),
        sa.Column("payload", sa.Text, nullable=False),
    )
    op.create_index("predictions_customer", "predictions", ["business_id", "customer_id", "as_of"])
    op.create_index("predictions_as_of", "predictions", ["business_id", "as_of"])
    op.create_index("predictions_created", "predictions", ["created_at"])
    op.create_table(
        "prediction_interventions",
        sa.Column("prediction_id", sa.Text, primary_key=True),
        sa.Column("business_id", sa.Text, nullable=False),
        sa.Column("campaign_id", sa.Text, nullable=False),
        sa.Column("intervention_type", sa.Text, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "prediction_outcomes",
        sa.Column("prediction_id", sa.Text, primary_key=True),
        sa.Column("business_id", sa.Text, nullable=False),
        sa.Column("churned", sa.Boolean, nullable=False),
        sa.Column("churn_date", sa.Date),
        sa.Column("created_at", sa.BigInteger, nullable=False),
    )


def downgrade() -> None:
    for table in ("prediction_outcomes", "prediction_interventions", "predictions"):
        op.drop_table(table)
