"""The routes about pictures."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

import orjson
from fastapi import FastAPI, Header, Path, Query, Request
from pydantic import BaseModel
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from contracts import api_pictures as api
from contracts.api import Id
from contracts.errors import ContractError
from ray_apps import multipart
from ray_apps.metrics import Stopwatch
from ray_apps.routing import (
    BODY_PROBLEMS,
    JSON,
    READERS,
    SECURED,
    WRITERS,
    MalformedJsonError,
    answer,
    own_business,
    problem_responses,
    read,
    returns,
    takes,
)
from ray_apps.service import Service

DOCUMENTED: tuple[tuple[type[BaseModel], Any], ...] = (
    (api.PictureContext, "validation"),
    (api.ReviewRequest, "validation"),
    (api.ChallengeRequest, "validation"),
    (api.RecognitionResponse, "serialization"),
    (api.RecognitionHistory, "serialization"),
    (api.ReceiptReviews, "serialization"),
    (api.ReviewResponse, "serialization"),
    (api.ChallengeResponse, "serialization"),
    (api.Challenges, "serialization"),
    (api.TaughtResponse, "serialization"),
    (api.TaughtProducts, "serialization"),
)
REVIEWERS = ("analyst", "private_reader", "admin")
"""Whoever decides on points must be a person: the key of an app is not enough."""
UPLOAD_PROBLEMS = (400, 401, 403, 408, 413, 415, 422, 503)
REPEATED = "Idempotency-Replayed"
Limit = Annotated[int, Query(ge=1, le=100, description="Items per page.")]
Offset = Annotated[int, Query(ge=0, le=1_000_000, description="Items to skip.")]
ReviewPath = Annotated[Id, Path(description="The reviewId.")]
ChallengePath = Annotated[Id, Path(description="Chosen by the business.")]


class SlowUpload(ContractError):  # noqa: N818 - as in contracts.errors
    """The bytes of an upload did not come in time, or their sender went away."""

    status = 408
    title = "Request timeout"
    slug = "request-timeout"


def add_pictures(app: FastAPI, service: Service) -> None:
    """Mount the routes."""
    _add_recognition(app, service)
    _add_history(app, service)
    _add_reviews(app, service)
    _add_challenges(app, service)
    _add_products(app, service)


def _form(properties: dict[str, Any], required: list[str]) -> dict[str, Any]:
    """`openapi_extra` of a secured route that reads a form with files itself."""
    schema = {"type": "object", "properties": properties, "required": required, "additionalProperties": False}
    encoding = {"image": {"contentType": "image/jpeg, image/png, image/webp"}} | (
        {"context": {"contentType": JSON}} if "context" in properties else {}
    )
    content = {"multipart/form-data": {"schema": schema, "encoding": encoding}}
    return {"requestBody": {"required": True, "content": content}, "security": [{"bearer": []}]}


_IMAGE = {"type": "string", "format": "binary", "description": "A JPEG, PNG or WebP file."}


async def _uploaded(request: Request, service: Service, fields: dict[str, int]) -> dict[str, list[memoryview]]:
    """The fields of a form, its body read within the time allowed.

    Raises:
        SlowUpload: it was not there in time. NotMultipart, MalformedMultipart, WrongFields: see `ray_apps.multipart`.
    """
    kind = request.headers.get("content-type", "")
    multipart.boundary_of(kind)  # before the body is read
    try:
        async with asyncio.timeout(service.pictures.tuning.receive_s):
            body = await request.body()
    except TimeoutError as exc:
        limit = service.pictures.tuning.receive_s
        raise SlowUpload(f"The body was not there after {limit:g} s. Send a smaller picture, or over a faster connection.") from exc
    except ClientDisconnect as exc:
        raise SlowUpload("The sender closed the connection before the body was there. Send it again.") from exc
    found = multipart.parse(body, kind, fields)
    if "image" not in found:
        raise multipart.WrongFields("The body has no field image. Send the picture in it: curl -F image=@photo.jpg")
    return found


def _text(part: memoryview, name: str) -> str:
    try:
        return str(part, "utf-8")
    except UnicodeDecodeError as exc:
        raise multipart.WrongFields(f"The field {name} is not UTF-8, must be. Send text in UTF-8.") from exc


def _context(found: dict[str, list[memoryview]]) -> api.PictureContext:
    """The field `context`; nothing where it was not sent.

    Raises:
        WrongFields: it is too long. MalformedJsonError: it is not JSON. pydantic.ValidationError: it is not a `PictureContext`.
    """
    if "context" not in found:
        return api.PictureContext()
    part = found["context"][0]
    if len(part) > api.MAX_CONTEXT_BYTES:
        raise multipart.WrongFields(f"The field context has {len(part)} bytes, may have {api.MAX_CONTEXT_BYTES}. Send less.")
    try:
        return api.PictureContext.model_validate(orjson.loads(bytes(part)))
    except orjson.JSONDecodeError as exc:
        raise MalformedJsonError(f"The field context is not valid JSON ({exc.msg}). Send one JSON object in UTF-8.") from exc


def _add_recognition(app: FastAPI, service: Service) -> None:
    context = {"$ref": "#/components/schemas/PictureContext"}

    @app.post(
        api.PICTURES,
        **returns(api.RecognitionResponse, 404, 409, *UPLOAD_PROBLEMS),
        openapi_extra=_form({"image": _IMAGE, "context": context}, ["image"]),
    )
    async def recognise(
        request: Request,
        idempotency_key: Annotated[
            api.Key | None, Header(description="Of the caller's choice: whatever is sent again under it gets the first answer.")
        ] = None,
    ) -> Response:
        """What a picture shows: a receipt with what it says, products with where they are, or nothing that we know.

        With `customerId` in the context, a receipt earns points, once: the same receipt again, or another picture of it, does not; `status`
        and `flags` say what became of it. Without it nothing is awarded. `challengeId` counts the picture for a challenge;
        `expectedProduct` is answered with whether it is shown. Boxes are in pixels of the picture as it stands upright.

        The picture is told by its content: JPEG, PNG or WebP, within bounds of bytes and pixels; what is damaged, animated or made to do
        harm is refused. It is not kept.
        """
        stopwatch = Stopwatch()
        caller = await service.authenticate(request.headers.get("authorization"), WRITERS)
        stopwatch.lap("auth")
        async with service.pictures.uploads.enter():
            found = await _uploaded(request, service, {"image": 1, "context": 1})
            wanted = _context(found)
            own_business(caller, wanted.business_id)
            stopwatch.lap("receive")
            answered = await service.pictures.recognise(caller, bytes(found["image"][0]), wanted, idempotency_key, stopwatch)
        response = answer(answered.body, stopwatch)
        if answered.repeated:
            response.headers[REPEATED] = "true"
        return response


def _add_history(app: FastAPI, service: Service) -> None:
    @app.get(api.PICTURES + "/history", **returns(api.RecognitionHistory, 401, 403, 422, 503), openapi_extra=SECURED)
    async def history(
        request: Request,
        customer_id: Annotated[Id, Query(alias="customerId", description="The customer asked about.")],
        limit: Limit = 20,
        offset: Offset = 0,
    ) -> Response:
        """Pictures of one customer as they were answered, newest first, and the points that they earned."""
        stopwatch = Stopwatch()
        caller = await service.authenticate(request.headers.get("authorization"), READERS)
        return answer(await service.pictures.history(caller, customer_id, limit, offset, stopwatch), stopwatch)


def _add_reviews(app: FastAPI, service: Service) -> None:
    path = api.PICTURES + "/reviews"

    @app.get(path, **returns(api.ReceiptReviews, 401, 403, 422, 503), openapi_extra=SECURED)
    async def reviews(request: Request, limit: Limit = 20, offset: Offset = 0) -> Response:
        """Receipts of this business that wait for a person, oldest first."""
        stopwatch = Stopwatch()
        caller = await service.authenticate(request.headers.get("authorization"), REVIEWERS)
        return answer(await service.pictures.reviews(caller, limit, offset, stopwatch), stopwatch)

    async def decided(request: Request, review_id: str, approve: bool) -> Response:
        stopwatch = Stopwatch()
        caller = await service.authenticate(request.headers.get("authorization"), REVIEWERS)
        given = await read(request, api.ReviewRequest)
        return answer(await service.pictures.decide(caller, review_id, approve, given, stopwatch), stopwatch)

    documented = returns(api.ReviewResponse, 404, 409, *BODY_PROBLEMS)

    @app.post(path + "/{review_id}/approve", **documented, openapi_extra=takes(api.ReviewRequest))
    async def approve(request: Request, review_id: ReviewPath) -> Response:
        """Award the points of a receipt that waits. The same again changes nothing; after a rejection it is a conflict."""
        return await decided(request, review_id, True)

    @app.post(path + "/{review_id}/reject", **documented, openapi_extra=takes(api.ReviewRequest))
    async def reject(request: Request, review_id: ReviewPath) -> Response:
        """Award nothing for a receipt that waits. The same again changes nothing; after an approval it is a conflict."""
        return await decided(request, review_id, False)


def _add_challenges(app: FastAPI, service: Service) -> None:
    path = api.PICTURES + "/challenges"

    @app.get(path, **returns(api.Challenges, 401, 403, 422, 503), openapi_extra=SECURED)
    async def challenges(request: Request, limit: Limit = 20, offset: Offset = 0) -> Response:
        """Challenges of this business, by id."""
        stopwatch = Stopwatch()
        caller = await service.authenticate(request.headers.get("authorization"), READERS)
        return answer(await service.pictures.challenges(caller, limit, offset, stopwatch), stopwatch)

    @app.get(path + "/{challenge_id}", **returns(api.ChallengeResponse, 401, 403, 404, 422, 503), openapi_extra=SECURED)
    async def challenge(request: Request, challenge_id: ChallengePath) -> Response:
        """A challenge."""
        stopwatch = Stopwatch()
        caller = await service.authenticate(request.headers.get("authorization"), READERS)
        return answer(await service.pictures.challenge(caller, challenge_id, stopwatch), stopwatch)

    @app.put(path + "/{challenge_id}", **_created(api.ChallengeResponse, *BODY_PROBLEMS), openapi_extra=takes(api.ChallengeRequest))
    async def put_challenge(request: Request, challenge_id: ChallengePath) -> Response:
        """Set a challenge up, or in place of the one with its id (200). What customers have found of it counts on; nobody is paid twice."""
        stopwatch = Stopwatch()
        caller = await service.authenticate(request.headers.get("authorization"), REVIEWERS)
        made, new = await service.pictures.put_challenge(caller, challenge_id, await read(request, api.ChallengeRequest), stopwatch)
        return answer(made, stopwatch, 201 if new else 200)


def _created(model: type[BaseModel], *statuses: int, also_200: bool = True) -> dict[str, Any]:
    documented = returns(model, *statuses)
    created = documented["responses"][200] | {"description": "Created."}
    documented["responses"][201] = created
    if not also_200:
        del documented["responses"][200]
        documented["status_code"] = 201
    return documented


def _add_products(app: FastAPI, service: Service) -> None:
    text = {"type": "string", "minLength": 1, "maxLength": 128}
    images = {"type": "array", "items": _IMAGE, "minItems": 1, "maxItems": api.MAX_PHOTOS}
    form = {"image": images, "productId": text, "name": text, "brand": {"type": "string", "maxLength": 128}}

    @app.post(
        api.PRODUCTS,
        **_created(api.TaughtResponse, *UPLOAD_PROBLEMS, also_200=False),
        openapi_extra=_form(form, ["image", "productId", "name"]),
    )
    async def teach(request: Request) -> Response:
        """Teach a product with one to five photos (`image`, repeated), from different sides; it is recognised from the next picture on.

        Without training: the photos become vectors that pictures are compared with. The same `productId` again replaces what was taught.
        """
        stopwatch = Stopwatch()
        caller = await service.authenticate(request.headers.get("authorization"), WRITERS)
        stopwatch.lap("auth")
        async with service.pictures.uploads.enter():
            fields = {"image": api.MAX_PHOTOS, "productId": 1, "name": 1, "brand": 1}
            found = await _uploaded(request, service, fields)
            texts = {name: _text(found[name][0], name) for name in ("productId", "name", "brand") if name in found}
            given = api.TeachRequest.model_validate(texts)
            stopwatch.lap("receive")
            taught = await service.pictures.teach(caller, given, [bytes(image) for image in found["image"]], stopwatch)
        return answer(taught, stopwatch, 201)

    @app.get(api.PRODUCTS, **returns(api.TaughtProducts, 401, 403, 422, 503), openapi_extra=SECURED)
    async def taught(request: Request, limit: Limit = 20, offset: Offset = 0) -> Response:
        """Products that this business taught, by productId."""
        stopwatch = Stopwatch()
        caller = await service.authenticate(request.headers.get("authorization"), READERS)
        return answer(await service.pictures.taught(caller, limit, offset, stopwatch), stopwatch)

    deleted = {204: {"description": "Deleted."}, **problem_responses(401, 403, 404, 422, 503)}

    @app.delete(api.PRODUCTS + "/{product_id}", responses=deleted, response_class=Response, status_code=204, openapi_extra=SECURED)
    async def forget(request: Request, product_id: Annotated[Id, Path(description="The productId.")]) -> Response:
        """Forget a taught product: it is not recognised any more."""
        caller = await service.authenticate(request.headers.get("authorization"), WRITERS)
        await service.pictures.forget(caller, product_id)
        return Response(status_code=204)
