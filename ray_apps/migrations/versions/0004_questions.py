"""Plain-English questions: the audit, kept questions, feedback, corrections; keys that may read private columns.

Revision: 0004_questions
"""

import sqlalchemy as sa
from alembic import op

revision = "0004_questions"
down_revision = "0003_batch_jobs"
branch_labels = None
depends_on = None

SEQ = sa.BigInteger().with_variant(sa.Integer, "sqlite")
APPEND_ONLY = ("questions", "question_corrections")
ROLES = ("app", "analyst", "private_reader", "admin")


def upgrade() -> None:
    _allow_roles(ROLES)
    op.create_table(
        "questions",
        sa.Column("seq", SEQ, primary_key=True, autoincrement=True),
        sa.Column("question_id", sa.Text, nullable=False),
        sa.Column("action", sa.Text, nullable=False),
        sa.Column("business_id", sa.Text, nullable=False),
        sa.Column("key_id", sa.Text, nullable=False),
        sa.Column("role", sa.Text, nullable=False),
        sa.Column("asked_at", sa.BigInteger, nullable=False),
        sa.Column("question", sa.Text, nullable=False),
        sa.Column("outcome", sa.Text, nullable=False),
        sa.Column("reason", sa.Text),
        sa.Column("interpretation", sa.Text),
        sa.Column("sql", sa.Text),
        sa.Column("columns", sa.Text, nullable=False),
        sa.Column("row_limit", sa.Integer),
        sa.Column("row_count", sa.Integer),
        sa.Column("confidence", sa.Double),
        sa.Column("source", sa.Text),
        sa.Column("model_version", sa.Text, nullable=False),
        sa.Column("ms", sa.Double, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("questions_id", "questions", ["business_id", "question_id"])
    op.create_index("questions_asked", "questions", ["business_id", "action", "seq"])
    op.create_table(
        "saved_questions",
        sa.Column("saved_id", sa.Text, primary_key=True),
        sa.Column("business_id", sa.Text, nullable=False),
        sa.Column("key_id", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("question", sa.Text, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.UniqueConstraint("business_id", "name", name="saved_questions_name"),
    )
    op.create_table(
        "question_feedback",
        sa.Column("seq", SEQ, primary_key=True, autoincrement=True),
        sa.Column("question_id", sa.Text, nullable=False),
        sa.Column("business_id", sa.Text, nullable=False),
        sa.Column("key_id", sa.Text, nullable=False),
        sa.Column("correct", sa.Boolean, nullable=False),
        sa.Column("note", sa.Text),
        sa.Column("correction_id", sa.Text),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("question_feedback_question", "question_feedback", ["business_id", "question_id"])
    op.create_table(
        "question_corrections",
        sa.Column("seq", SEQ, primary_key=True, autoincrement=True),
        sa.Column("correction_id", sa.Text, nullable=False),
        sa.Column("removes", sa.Text),
        sa.Column("business_id", sa.Text, nullable=False),
        sa.Column("key_id", sa.Text, nullable=False),
        sa.Column("question_id", sa.Text),
        sa.Column("question", sa.Text, nullable=False),
        sa.Column("sql", sa.Text, nullable=False),
        sa.Column("interpretation", sa.Text),
        sa.Column("columns", sa.Text, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.UniqueConstraint("correction_id", name="question_corrections_id"),
        sa.UniqueConstraint("removes", name="question_corrections_removed_once"),
        sqlite_autoincrement=True,
    )
    op.create_index("question_corrections_business", "question_corrections", ["business_id", "seq"])
    for table in APPEND_ONLY:
        _forbid_changes(table)


def downgrade() -> None:
    sqlite = op.get_bind().dialect.name == "sqlite"
    for table in ("question_corrections", "question_feedback", "saved_questions", "questions"):
        op.drop_table(table)  # its triggers go with it
    if not sqlite:
        op.execute("DROP FUNCTION refuse_change()")
    op.execute("UPDATE api_keys SET role = 'analyst' WHERE role = 'private_reader'")
    _allow_roles(("app", "analyst", "admin"))


def _forbid_changes(table: str) -> None:
    """Triggers that let rows of a table only be added."""
    if op.get_bind().dialect.name == "sqlite":
        for verb in ("UPDATE", "DELETE"):
            op.execute(
                f"CREATE TRIGGER {table}_no_{verb.lower()} BEFORE {verb} ON {table} "
                f"BEGIN SELECT RAISE(ABORT, '{table}: rows are only added'); END"
            )
        return
    op.execute(
        "CREATE OR REPLACE FUNCTION refuse_change() RETURNS trigger AS "
        "$$ BEGIN RAISE EXCEPTION '%: rows are only added', TG_TABLE_NAME; END $$ LANGUAGE plpgsql"
    )
    op.execute(
        f"CREATE TRIGGER {table}_no_change BEFORE UPDATE OR DELETE OR TRUNCATE ON {table} "
        "FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
    )


def _allow_roles(roles: tuple[str, ...]) -> None:
    """Replace the check of `api_keys.role`."""
    allowed = "role IN ({})".format(", ".join(f"'{r}'" for r in roles))
    if op.get_bind().dialect.name != "sqlite":
        op.drop_constraint("api_keys_role", "api_keys", type_="check")
        op.create_check_constraint("api_keys_role", "api_keys", allowed)
        return
    # SQLite cannot change a check: the table is made anew, and its rows are copied.
    wanted = sa.Table(
        "api_keys",
        sa.MetaData(),
        sa.Column("key_id", sa.Text, primary_key=True),
        sa.Column("business_id", sa.Text, nullable=False),
        sa.Column("role", sa.Text, nullable=False),
        sa.Column("hash", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("revoked_at", sa.BigInteger),
        sa.CheckConstraint(allowed, name="api_keys_role"),
    )
    with op.batch_alter_table("api_keys", copy_from=wanted, recreate="always"):
        pass
