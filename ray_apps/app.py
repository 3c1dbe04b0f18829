"""The Ray Serve application: start reading here.

`application(settings)` binds the ingress, HTTP and the pipeline in one process, since a hop between two costs more than the pipeline
itself; and beside it `Questions` and `Pictures`, whose work is long enough to hold the pipeline up. Triton, the lander and Ray's own
processes are started by `ray_apps.stack`.
"""

from __future__ import annotations

import gc
import logging
from typing import Any

from ray import serve
from starlette.types import ASGIApp

from contracts.errors import StackError
from ray_apps.settings import ServeSettings
from ray_apps.tuning import PictureServeSettings, QuestionSettings


@serve.deployment(name="Ingress", ray_actor_options={"num_cpus": 0.1}, graceful_shutdown_timeout_s=5)
@serve.ingress()
class Ingress:
    """One replica.

    Args:
        settings: `ServeSettings` as JSON-ready values.
        questions: the handle of `Questions`.
        pictures: the handle of `Pictures`.
    """

    def __init__(self, settings: dict[str, Any], questions: Any, pictures: Any) -> None:
        from ray_apps.deployments.handle import HandleDesk, HandlePictures
        from ray_apps.service import Service

        _listen_on_loopback()
        loaded = ServeSettings.load(**settings)
        logging.getLogger("regulars").setLevel(loaded.log_level)
        self._service = Service(loaded, HandleDesk(questions), HandlePictures(pictures))

    def __serve_build_asgi_app__(self) -> ASGIApp:
        from ray_apps.ingress import create_app

        # What was loaded until now lives as long as the process: a full collection would only walk over it.
        gc.collect()
        gc.freeze()
        return create_app(self._service)


@serve.deployment(name="Questions", ray_actor_options={"num_cpus": 0.1}, graceful_shutdown_timeout_s=5)
class Questions:
    """One replica of what answers questions: `ray_apps.deployments.questions.QuestionDesk`.

    Args:
        settings: `ServeSettings` as JSON-ready values.
    """

    def __init__(self, settings: dict[str, Any]) -> None:
        from ray_apps.deployments.questions import QuestionDesk

        _listen_on_loopback()
        loaded = ServeSettings.load(**settings)
        logging.getLogger("regulars").setLevel(loaded.log_level)
        self._desk = QuestionDesk(loaded)

    async def call(self, method: str, *arguments: Any) -> Any:
        """One call of `ray_apps.question_desk.Desk`."""
        return await getattr(self._desk, method)(*arguments)


@serve.deployment(name="Pictures", ray_actor_options={"num_cpus": 0.1}, graceful_shutdown_timeout_s=5)
class Pictures:
    """One replica of what looks at pictures: `ray_apps.deployments.pictures.PicturesDesk`.

    Args:
        settings: `ServeSettings` as JSON-ready values.
    """

    def __init__(self, settings: dict[str, Any]) -> None:
        from ray_apps.deployments.pictures import PicturesDesk

        _listen_on_loopback()
        loaded = ServeSettings.load(**settings)
        logging.getLogger("regulars").setLevel(loaded.log_level)
        self._desk = PicturesDesk(loaded)

    async def call(self, method: str, *arguments: Any) -> Any:
        """One call of `ray_apps.picture_desk.PictureDesk`; an error of ours is given back rather than raised.

        Ray logs what is raised with its traceback, and whoever sends files that are no pictures must not fill the disk with them.
        """
        try:
            return await getattr(self._desk, method)(*arguments)
        except StackError as exc:
            return exc.with_traceback(None)


def _listen_on_loopback() -> None:
    """Ray binds the port for calls between deployments on all interfaces; nobody calls this one from another machine."""
    from ray.serve._private import replica

    add_port = replica.add_port_to_grpc_server

    def add_loopback_port(server: Any, address: str) -> Any:
        return add_port(server, address.replace("[::]", "127.0.0.1"))

    replica.add_port_to_grpc_server = add_loopback_port


def application(args: dict[str, Any]) -> serve.Application:
    """The application; also the builder that serve.yaml names.

    Args:
        args: fields of `ServeSettings`.
    """
    settings = ServeSettings.load(**args)
    # Ray's own bound lies above ours: ours answers with a problem document and Retry-After.
    bound = settings.max_ongoing_requests + settings.max_queued_requests + 64
    deployment = Ingress.options(num_replicas=settings.replicas, max_ongoing_requests=bound)  # type: ignore[attr-defined]
    values, tuning = settings.model_dump(mode="json"), QuestionSettings.load()
    questions = Questions.options(  # type: ignore[attr-defined]
        # A few more than it has threads: what asks for its status must not wait behind questions.
        num_replicas=tuning.replicas,
        max_ongoing_requests=tuning.threads + 4,
        max_queued_requests=tuning.waiting,
    )
    looking = PictureServeSettings.load()
    pictures = Pictures.options(  # type: ignore[attr-defined]
        num_replicas=looking.replicas, max_ongoing_requests=looking.threads + 4, max_queued_requests=looking.waiting
    )
    return deployment.bind(values, questions.bind(values), pictures.bind(values))


def noop_application() -> serve.Application:
    """A FastAPI route that does nothing, in a replica of its own: what Ray Serve and HAProxy cost by themselves."""
    from fastapi import FastAPI

    app = FastAPI()

    @app.post("/")
    async def noop() -> dict[str, bool]:
        return {"ok": True}

    @serve.deployment(name="Noop", ray_actor_options={"num_cpus": 0.1}, max_ongoing_requests=256)
    @serve.ingress(app)
    class Noop:
        """Nothing."""

    return Noop.bind()  # type: ignore[attr-defined]
