"""The product network of the model server: loaded when it is not yet, and one in this process when there is no server."""

from __future__ import annotations

import io

import numpy as np
import pytest
from rich.console import Console

from contracts.errors import ArtifactError, UpstreamError
from ray_apps.product_network import TritonNetwork, open_network
from serving.repository import build_products
from serving.triton import TritonServer
from tests.vision.products_drawn import picture, write_set
from vision.product_data import squared
from vision.products import LocalNetwork, ProductRecognizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    from vision.train import ProductSettings, train

    root = tmp_path_factory.mktemp("products")
    settings = ProductSettings.load(
        environ={}, model="test_efficientnet", size=96, batch_size=8, weights="scratch", precision="fp32", steps=3
    )
    train(write_set(root / "data", 6), root / "run", settings, Console(file=io.StringIO()))
    return root / "run" / "artifact"


def test_without_a_server_the_network_runs_in_this_process(folder, tmp_path, free_port):
    assert isinstance(open_network("", tmp_path / "repo", folder), LocalNetwork)
    away = f"127.0.0.1:{free_port()}"
    assert isinstance(open_network(away, tmp_path / "repo", folder, 0.5), LocalNetwork)


def test_a_server_that_is_away_serves_nothing(free_port):
    network = TritonNetwork(f"127.0.0.1:{free_port()}", 0.5)
    assert not network.served.serves("x")
    with pytest.raises(UpstreamError):
        network.infer(np.stack([squared(picture("circle-red", 1), 96)]))
    with pytest.raises(UpstreamError):
        network.served.load()
    network.close()


def test_a_folder_without_a_network_is_refused(tmp_path):
    with pytest.raises(ArtifactError, match="regulars train products"):
        open_network("", tmp_path / "repo", tmp_path)


def test_triton_answers_as_this_process_does(folder, tmp_path, quick_settings):
    build_products(folder, tmp_path / "repository")
    server = TritonServer(quick_settings(), tmp_path / "repository", tmp_path / "run", lambda client: None)
    try:
        server.start()
        remote = open_network(server.url, tmp_path / "repository", folder, 60)
        assert isinstance(remote, TritonNetwork)
        batch = np.stack([squared(picture("circle-red", i), 96) for i in range(3)])
        here, there = LocalNetwork(folder).infer(batch), remote.infer(batch)
        assert set(here) == set(there)
        for name, value in here.items():
            assert there[name] == pytest.approx(value, abs=1e-3), name
        found = ProductRecognizer(folder, remote).recognise(picture("circle-red", 5))
        assert found.nearest[0][1] == pytest.approx(ProductRecognizer(folder).recognise(picture("circle-red", 5)).nearest[0][1], abs=1e-3)
        remote.close()
    finally:
        server.stop()


def test_a_model_that_the_server_cannot_load_does_not_stay_in_its_repository(folder, tmp_path, quick_settings):
    """It would keep the server from starting ever again."""
    from ray_apps.networks import remote_or_local

    build_products(folder, tmp_path / "repository")
    server = TritonServer(quick_settings(), tmp_path / "repository", tmp_path / "run", lambda client: None)

    def broken(repository):
        (repository / "product_classifier" / "1" / "model.onnx").write_bytes(b"no network")

    try:
        server.start()
        remote = TritonNetwork(server.url, 30)
        assert remote_or_local(remote, lambda: "here", "another", broken, tmp_path / "repository", "products are recognised") == "here"
        assert not (tmp_path / "repository" / "product_classifier").exists()
        assert server.healthy()
    finally:
        server.stop()
    away = TritonNetwork(server.url, 0.5)
    build_products(folder, tmp_path / "repository")
    remote_or_local(away, lambda: "here", "another", broken, tmp_path / "repository", "products are recognised")
    assert (tmp_path / "repository" / "product_classifier").exists(), "a server that is away refused nothing"
