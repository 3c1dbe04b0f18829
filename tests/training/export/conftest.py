"""Small models and a run's files, without training."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from contracts import sequence
from contracts.bundle import PAD, UNKNOWN, Calibration, OfferType, OfferTypes, Ranking
from contracts.tables import REWARD_TYPES, REWARDS
from contracts.tensors import FEATURE_COUNT, MONTH_COUNT, STEP_COUNT, TEXT_DIM
from training.export.bundle import Bundle, RunRecord, build_bundle
from training.export.recommender import RecommenderRun
from training.export.sequence import SequenceRun, golden_histories
from training.recommender.model import ModelConfig, TwoTower
from training.recommender.next_offer import OfferConfig, OfferModel, save_offer_model
from training.recommender.ranker import Ranker, RankerConfig, save_ranker
from training.sequence import artifacts as sequence_files
from training.sequence.model import FactorsModel, SequenceModel
from training.sequence.model import ModelConfig as SequenceConfig

REWARD_COUNT = 12
RECORD = RunRecord("data-1", "code-1", "2026-01-01T00:00:00Z")


@pytest.fixture(scope="session")
def two_tower() -> TwoTower:
    """Seeded, untrained; weights are not zero, so that every part of it shows in the vectors."""
    torch.set_num_threads(1)
    torch.manual_seed(3)
    return TwoTower(ModelConfig(vocabulary=2 + REWARD_COUNT + 3, kinds=8, width=32)).eval()


def second_stage() -> tuple[Ranker, OfferModel]:
    """Seeded and untrained, with statistics other than 0 and 1 in the standardisation."""
    torch.manual_seed(4)
    ranker, offers = Ranker(RankerConfig()).eval(), OfferModel(OfferConfig(width=16)).eval()
    for part in (p for m in (ranker, offers) for p in m.modules() if hasattr(p, "std") and hasattr(p, "set")):
        part.set(torch.randn_like(part.mean), torch.rand_like(part.std) + 0.5)
    return ranker, offers


@pytest.fixture(scope="session")
def trained(two_tower: TwoTower) -> RecommenderRun:
    """The models of the run whose files `artifacts` holds."""
    return RecommenderRun(two_tower, *second_stage())


def write_second_stage(folder: Path) -> None:
    """What the second stage adds to a run's files."""
    ranker, offers = second_stage()
    save_ranker(ranker, folder)
    save_offer_model(offers, folder)
    ones = (1.0,) * FEATURE_COUNT
    ranking = Ranking(
        rate_weights=(0.01,) * FEATURE_COUNT, rate_intercept=-1.0, feature_mean=(0.0,) * FEATURE_COUNT, feature_std=ones, temperature=1.0,
        slope=1.0, intercept=0.0, horizon_days=30, ece=0.01,
    )  # fmt: skip
    (folder / "ranking.json").write_text(ranking.model_dump_json())
    np.savez(folder / "item_stats.npz", allow_pickle=False, share=np.linspace(0, 1, REWARD_COUNT))
    types = {t: OfferType(slope=1.0, intercept=-1.0, ece=0.01, share=0.1) for t in REWARD_TYPES}
    offers_file = OfferTypes(types=types, horizon_days=30, shares={"biz-1": {"discount": 0.2, "free_item": 0.1, "experience": 0.05}})
    (folder / "offer_types.json").write_text(offers_file.model_dump_json())


def write_artifacts(folder: Path, model: TwoTower) -> Path:
    """The files of training.registry.RUN_FILES."""
    folder.mkdir(parents=True)
    write_second_stage(folder)
    torch.save(model.state_dict(), folder / "checkpoint.pt")
    (folder / "model.json").write_text(json.dumps(model.config.as_dict()))
    tokens = [PAD, UNKNOWN, *(f"r:rew-{i}" for i in range(REWARD_COUNT)), "c:coffee", "c:food", "c:gift"]
    (folder / "vocabulary.json").write_text(json.dumps(tokens))
    calibration = Calibration(slope=3.0, popularity=0.5, intercept=-2.0, horizon_days=30, ece=0.02)
    (folder / "calibration.json").write_text(calibration.model_dump_json())
    pq.write_table(_rewards(), folder / "rewards.parquet")
    texts = np.random.default_rng(1).standard_normal((REWARD_COUNT, TEXT_DIM)).astype(np.float32)
    np.save(folder / "text_vectors.npy", texts / np.linalg.norm(texts, axis=1, keepdims=True))
    (folder / "settings.json").write_text(json.dumps({"width": 32}))
    (folder / "metrics.json").write_text(json.dumps({"ndcg@10": 0.5}))
    return folder


def _rewards() -> pa.Table:
    rows = [
        {
            "reward_id": f"rew-{i}",
            "business_id": "biz-1",
            "name": f"Reward {i}",
            "description": None,
            "category": ("coffee", "food", "gift", None)[i % 4],
            "reward_type": ("discount", "free_item", "experience")[i % 3],
            "points_cost": 100 * i,
            "face_value": Decimal(i),
            "difficulty": None,
            "valid_from": datetime(2025, 1, 1, tzinfo=UTC) if i % 2 else None,
            "valid_to": None,
            "inventory": None,
        }
        for i in range(REWARD_COUNT)
    ]
    table = pa.Table.from_pylist(rows, schema=REWARDS.schema)
    counts = pa.array(range(REWARD_COUNT), pa.int64())
    return table.append_column("redemptions", counts).append_column("redeemer_share", pa.array(np.linspace(0.01, 0.3, REWARD_COUNT)))


@pytest.fixture(scope="session")
def artifacts(tmp_path_factory: pytest.TempPathFactory, two_tower: TwoTower) -> Path:
    """A run's files. Read only: copy them to change them."""
    return write_artifacts(tmp_path_factory.mktemp("run") / "artifacts", two_tower)


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory, artifacts: Path) -> Bundle:
    """A finished bundle of version 1. Read only."""
    return build_bundle(tmp_path_factory.mktemp("models"), artifacts, "1", RECORD)


def forecasting(reference_statics: np.ndarray) -> sequence.Forecasting:
    """A record with plausible numbers."""
    rates = sequence.BaseRates(
        churn=(0.6, 0.5, 0.4), silent_by=tuple(np.linspace(0.4, 0.9, STEP_COUNT)), purchase_probability=(0.3,) * MONTH_COUNT,
        spend=(10.0,) * MONTH_COUNT, spend_interval=(50.0, 200.0),
    )  # fmt: skip
    return sequence.Forecasting(
        definition=sequence.ChurnDefinition(), reference_statics=tuple(reference_statics.tolist()), base_rates={"": rates},
        clv_cuts={"": (50.0, 200.0, 500.0)}, ece=0.02, spend_months_seen=6,
    )  # fmt: skip


def new_sequence() -> sequence_files.Trained:
    """Seeded and untrained, with the mean of the golden customers as the reference."""
    torch.manual_seed(6)
    model = SequenceModel(SequenceConfig(hidden=8, members=2)).eval()
    ordinary = {name: array[3:] for name, array in golden_histories().items()}
    factors = FactorsModel(model, *(torch.from_numpy(ordinary[name].mean(0)) for name in ("weeks", "statics"))).eval()
    with torch.no_grad():
        model.reference_churn.copy_(factors(factors.reference_weeks[None], factors.reference_statics[None])[-1][0])
    return sequence_files.Trained(model, factors, forecasting(factors.reference_statics.numpy()))


@pytest.fixture(scope="session")
def sequence_run() -> SequenceRun:
    """The sequence models of the run whose files `sequence_artifacts` holds."""
    return SequenceRun(new_sequence())


@pytest.fixture(scope="session")
def sequence_artifacts(tmp_path_factory: pytest.TempPathFactory, sequence_run: SequenceRun) -> Path:
    """A sequence run's files. Read only: copy them to change them."""
    folder = tmp_path_factory.mktemp("sequence-run") / "artifacts"
    sequence_files.save(folder, sequence_run.trained, {"hidden": 8}, {"churn_90/auc": 0.8})
    return folder


@pytest.fixture(scope="session")
def sequence_bundle(bundle: Bundle, sequence_artifacts: Path) -> Bundle:
    """A finished bundle of version 3, beside that of the recommender. Read only."""
    return build_bundle(bundle.path.parent.parent, sequence_artifacts, "3", RECORD, name=sequence.MODEL_NAME)


@pytest.fixture(scope="session")
def bundles(bundle: Bundle, sequence_bundle: Bundle) -> dict[str, Bundle]:
    """Both, by name."""
    return {b.path.parent.name: b for b in (bundle, sequence_bundle)}


@pytest.fixture(scope="session")
def runs(trained: RecommenderRun, sequence_run: SequenceRun) -> dict[str, RecommenderRun | SequenceRun]:
    """The models of both, by the bundle's name."""
    return {"two-tower": trained, "sequence": sequence_run}
