"""Runs and versions, in MLflow: on SQLite under the home folder, or on a server by setting.

MLflow takes seconds to import and, the first time, to lay out its database: it is imported when first used, quietly, and its usage
reports to the vendor are switched off.
"""

from __future__ import annotations

import logging
import shutil
import subprocess
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from contracts import sequence
from contracts.bundle import BUNDLES, MODEL_NAME, bundle_spec
from contracts.errors import ArtifactError
from contracts.paths import Home

RUN_FILES = (
    "checkpoint.pt",
    "model.json",
    "vocabulary.json",
    "calibration.json",
    "rewards.parquet",
    "text_vectors.npy",
    "ranker.pt",
    "ranker.json",
    "ranking.json",
    "item_stats.npz",
    "next_offer.pt",
    "next_offer.json",
    "offer_types.json",
    "metrics.json",
    "settings.json",
)
"""What a finished run of the recommender holds; `metrics.json` is written last."""
_EXPERIMENT = "regulars"


def run_files(model: str) -> tuple[str, ...]:
    """What a finished run of a model holds.

    Raises:
        ConfigError: there is no such model.
    """
    if bundle_spec(model).name == sequence.MODEL_NAME:
        from training.sequence.artifacts import RUN_FILES as SEQUENCE_RUN_FILES  # brings torch

        return SEQUENCE_RUN_FILES
    return RUN_FILES


def code_version(root: Path | None = None) -> str:
    """Git commit of the checkout, with `-dirty` where tracked files differ from it; `unknown` outside git."""
    folder = root or Path(__file__).resolve().parent.parent
    git = shutil.which("git")
    if git is None or not (folder / ".git").exists():
        return "unknown"
    try:
        commit = subprocess.run(
            [git, "rev-parse", "HEAD"], cwd=folder, capture_output=True, text=True, timeout=20, check=True
        ).stdout.strip()
        changed = subprocess.run(
            [git, "status", "--porcelain", "-uno"], cwd=folder, capture_output=True, text=True, timeout=20, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return commit + ("-dirty" if changed.strip() else "")


class Registry:
    """Runs and versions of one home folder.

    Args:
        home: whose `mlruns` folder holds the database and the artifacts.
        tracking_uri: an MLflow server instead.
    """

    def __init__(self, home: Home, tracking_uri: str | None = None) -> None:
        self.home = home
        home.mlruns.mkdir(parents=True, exist_ok=True)
        self._local = tracking_uri is None
        self.client = _client(tracking_uri or f"sqlite:///{(home.mlruns / 'mlflow.db').resolve()}")

    def log_run(
        self, model: str, folder: Path, params: Mapping[str, Any], tags: Mapping[str, str], history: Sequence[Mapping[str, float]],
        final: Mapping[str, float],
    ) -> str:  # fmt: skip
        """Store a finished run: parameters, metrics of each epoch, final metrics and the files of `folder`. Returns its id."""
        from mlflow.entities import Metric, Param, RunTag

        run = self.client.create_run(self._experiment(), run_name=model, tags={"model": model})
        run_id = str(run.info.run_id)
        points = [Metric(k, float(v), 0, int(row["epoch"])) for row in history for k, v in row.items() if k != "epoch"]
        points += [Metric(_metric_name(k), float(v), 0, 0) for k, v in final.items()]
        with _quiet():
            self.client.log_batch(
                run_id,
                metrics=points[:1000],
                params=[Param(k, str(v)[:500]) for k, v in params.items()],
                tags=[RunTag(k, v) for k, v in tags.items()],
            )
            self.client.log_artifacts(run_id, str(folder))
            self.client.set_terminated(run_id, "FINISHED")
        return run_id

    def _experiment(self) -> str:
        found = self.client.get_experiment_by_name(_EXPERIMENT)
        if found is not None:
            return str(found.experiment_id)
        location = (self.home.mlruns / "artifacts").resolve().as_uri() if self._local else None
        return str(self.client.create_experiment(_EXPERIMENT, artifact_location=location))

    def find_run(self, model: str = MODEL_NAME) -> str | None:
        """Id of the newest finished run of a model; None where there is none."""
        found = self.client.get_experiment_by_name(_EXPERIMENT)
        where = f"tags.model = '{model}' and attributes.status = 'FINISHED'"
        runs = (
            self.client.search_runs([found.experiment_id], where, max_results=1, order_by=["attributes.start_time DESC"]) if found else []
        )
        return str(runs[0].info.run_id) if runs else None

    def latest_run(self, model: str = MODEL_NAME) -> str:
        """Id of the newest finished run of a model.

        Raises:
            ArtifactError: there is none.
            ConfigError: there is no such model.
        """
        train = bundle_spec(model).train
        found = self.find_run(model)
        if found is None:
            raise ArtifactError(f"no finished run of {model} in {self.home.mlruns}, an export needs one. Train first: {train}")
        return found

    def model_of(self, run_id: str) -> str:
        """Which model a run trained.

        Raises:
            ArtifactError: no such run.
        """
        from mlflow.exceptions import MlflowException

        try:
            with _quiet():
                return str(self.client.get_run(run_id).data.tags.get("model", MODEL_NAME))
        except MlflowException as exc:
            trains = " or ".join(b.train for b in BUNDLES.values())
            raise ArtifactError(f"cannot read run {run_id}: {exc}. Take the id of a finished run, or train again: {trains}") from exc

    def run_artifacts(self, run_id: str) -> Path:
        """Folder with a run's files; on this machine, fetched where a server holds them.

        Raises:
            ArtifactError: no such run, or one of its files is missing.
            ConfigError: it is of a model that there is not.
        """
        from mlflow.exceptions import MlflowException

        model = self.model_of(run_id)
        wanted, train = run_files(model), bundle_spec(model).train
        try:
            with _quiet():
                folder = Path(self.client.download_artifacts(run_id, ""))
        except (MlflowException, OSError) as exc:
            raise ArtifactError(f"cannot read the files of run {run_id}: {exc}. Export another run, or train again: {train}") from exc
        missing = [name for name in wanted if not (folder / name).is_file()]
        if missing:
            raise ArtifactError(f"run {run_id} lacks {', '.join(missing)}, must hold {len(wanted)} files. Train again: {train}")
        return folder

    def register(self, run_id: str, model: str = MODEL_NAME) -> str:
        """Give a run the next version of the model, or the one that it has; returns the version."""
        from mlflow.exceptions import MlflowException

        with _quiet():
            try:
                self.client.get_registered_model(model)
            except MlflowException:
                self.client.create_registered_model(model)
            for version in self.client.search_model_versions(f"name = '{model}'"):
                if version.run_id == run_id:
                    return str(version.version)
            source = self.client.get_run(run_id).info.artifact_uri
            return str(self.client.create_model_version(model, source, run_id).version)

    def set_alias(self, version: str, alias: str = "deployed", model: str = MODEL_NAME) -> None:
        """Point a name, for example `deployed`, at a version."""
        self.client.set_registered_model_alias(model, alias, version)


def latest_run(home: Home, model: str = MODEL_NAME, tracking_uri: str | None = None) -> str:
    """See `Registry.latest_run`."""
    return Registry(home, tracking_uri).latest_run(model)


def run_artifacts(home: Home, run_id: str, tracking_uri: str | None = None) -> Path:
    """See `Registry.run_artifacts`."""
    return Registry(home, tracking_uri).run_artifacts(run_id)


def register(home: Home, run_id: str, tracking_uri: str | None = None, model: str = MODEL_NAME) -> str:
    """See `Registry.register`."""
    return Registry(home, tracking_uri).register(run_id, model)


def set_alias(home: Home, version: str, alias: str = "deployed", tracking_uri: str | None = None, model: str = MODEL_NAME) -> None:
    """See `Registry.set_alias`."""
    Registry(home, tracking_uri).set_alias(version, alias, model)


def _metric_name(name: str) -> str:
    return name.replace("@", "_at_")


class _quiet:  # noqa: N801 - used like a function
    """No progress bars and no chatter of MLflow and Alembic inside."""

    def __enter__(self) -> None:
        self._levels = {n: logging.getLogger(n).level for n in ("mlflow", "mlflow.store.db.utils", "alembic", "alembic.runtime.migration")}
        for name in self._levels:
            logging.getLogger(name).setLevel(logging.ERROR)

    def __exit__(self, *_: object) -> None:
        for name, level in self._levels.items():
            logging.getLogger(name).setLevel(level)


def _client(uri: str) -> Any:
    """An MLflow client, with usage reports and progress bars off."""
    with _quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # third-party deprecations at import; nothing that we could act on
        import mlflow
        from mlflow.environment_variables import MLFLOW_DISABLE_TELEMETRY, MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR
        from mlflow.telemetry import set_telemetry_client

        MLFLOW_DISABLE_TELEMETRY.set("true")
        set_telemetry_client()
        MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR.set("false")
        logging.getLogger("alembic").setLevel(logging.ERROR)
        client = mlflow.MlflowClient(tracking_uri=uri, registry_uri=uri)
        client.get_experiment_by_name(_EXPERIMENT)  # lays the database out, the first time
        return client
