"""The Serve application, without starting Ray."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import yaml

from ray_apps.settings import ServeSettings

ROOT = Path(__file__).resolve().parent.parent.parent
CODE = """
import sys, ray_apps.app, ray_apps.service, ray_apps.ingress
bound = ray_apps.app.application({'home': '/nowhere', 'replicas': 3})
print(sorted(m for m in ('torch', 'lightning', 'mlflow', 'training') if m in sys.modules))
"""


def test_replica_needs_no_torch_and_no_training() -> None:
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", CODE], capture_output=True, text=True, timeout=120, cwd=ROOT, check=True)
    assert done.stdout.strip() == "[]"


def test_yaml_names_the_builder_and_only_settings_that_exist() -> None:
    document = yaml.safe_load((ROOT / "ray_apps" / "serve.yaml").read_text())
    (application,) = document["applications"]
    assert application["import_path"] == "ray_apps.app:application"
    assert document["http_options"]["host"] == "127.0.0.1"
    assert ServeSettings.load(environ={}, **application["args"]).replicas == 2
