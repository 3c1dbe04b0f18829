"""Run by Alembic; the connection and its transaction come from `ray_apps.migrations`."""

from alembic import context

from ray_apps import picture_rows, predictions, questions  # noqa: F401 - their tables join the metadata
from ray_apps.scoring import jobs  # noqa: F401 - as above
from ray_apps.store import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata, compare_type=True, render_as_batch=True)
context.run_migrations()
