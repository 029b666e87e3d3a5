"""One trained model over HTTP: OpenAI-style completions (streamed), classification, health and metrics.

  GET  /health, /metrics, /v1/models
  POST /v1/completions   {"prompt", "max_tokens", "temperature", "top_p", "top_k", "seed", "stop", "stream", "echo"}
  POST /v1/classify      {"image": base64 of a file, or nested lists of pixels}

One thread computes, a request at a time, so nothing of one request can reach another; the others wait in a queue of
bounded length. Whatever is wrong with a request is said in the form of OpenAI's errors.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import dataclasses
import json
import signal
import socket
import threading
import time
import uuid
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from scaling_jax.errors import UserError
from scaling_jax.trained.classify import Classifier
from scaling_jax.trained.generate import Generator, Sampling
from scaling_jax.trained.models import Models
from scaling_jax.trained.requests import Completion, Refused, completion_of, image_of

SHUTDOWN_SECONDS = 10  # that requests under way get when the server is asked to stop
DONE = object()


@dataclasses.dataclass(frozen=True)
class Limits:
    """What the server refuses.

    Attributes:
      queue: requests that may wait for the model.
      timeout: seconds of one request, waiting included.
      max_body: bytes of one request.
    """

    queue: int = 32
    timeout: float = 60.0
    max_body: int = 1 << 20


class Service:
    """The model, the thread that computes, and the queue in front of it.

    Args:
      models: of a workdir.
      scale, run_id: which model, as `Models.best` takes them.
      limits: of requests.
    """

    def __init__(self, models: Models, scale: str | None, run_id: str | None, limits: Limits):
        trained = models.load(scale, run_id)
        self.limits, self.name = limits, f"{trained.study.name}/{trained.scale}"
        self.generator = Generator(trained, models.tokenizer) if trained.spec.kind == "tokens" else None
        self.classifier = Classifier(trained) if trained.spec.kind == "images" else None
        self.shape = trained.spec.image_shape
        self.created = int(time.time())
        self._thread = concurrent.futures.ThreadPoolExecutor(1, "model")
        self._waiting = 0
        self.requests: Counter[tuple[str, int]] = Counter()
        self.tokens, self.seconds = 0, 0.0

    def warm(self) -> None:
        """Compiles what a short request needs, so that the first one does not wait for it."""
        if self.generator is not None:
            list(self.generator("", Sampling(max_tokens=1)))

    @property
    def waiting(self) -> int:
        """Requests that wait or compute."""
        return self._waiting

    @contextlib.contextmanager
    def place(self):
        """A place in the queue.

        Raises:
          Refused: the queue is full.
        """
        if self._waiting > self.limits.queue:
            raise Refused(429, f"{self._waiting} requests are waiting: try again later", "rate_limit_exceeded")
        self._waiting += 1
        try:
            yield
        finally:
            self._waiting -= 1

    def submit(self, function: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:
        """Runs a function on the model's thread."""
        return asyncio.get_running_loop().run_in_executor(self._thread, function, *args)

    async def pieces(self, asked: Completion) -> AsyncGenerator[Any, None]:
        """Tokens of a completion, as they are made; the computation ends when the reader does.

        Raises:
          Refused: the prompt is wrong, or time is up.
        """
        assert self.generator is not None
        generator, loop, queue = self.generator, asyncio.get_running_loop(), asyncio.Queue()
        over = threading.Event()

        def put(item: Any) -> None:
            with contextlib.suppress(RuntimeError):  # the loop has gone
                loop.call_soon_threadsafe(queue.put_nowait, item)

        def work() -> None:
            begin = time.perf_counter()
            try:
                for token in () if over.is_set() else generator(asked.prompt, asked.sampling):
                    if over.is_set():
                        break
                    self.tokens += 1
                    put(token)
                put(DONE)
            except BaseException as error:
                put(error)
            finally:
                self.seconds += time.perf_counter() - begin

        deadline = loop.time() + self.limits.timeout
        self.submit(work)
        try:
            while True:
                try:
                    item = await asyncio.wait_for(queue.get(), max(deadline - loop.time(), 0.001))
                except TimeoutError:
                    raise Refused(504, f"no answer within {self.limits.timeout:g} s", "timeout") from None
                if item is DONE:
                    return
                if isinstance(item, UserError):
                    raise Refused(400, str(item))
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            over.set()

    def metrics(self) -> str:
        """Counters in the text format of Prometheus."""
        lines = ["# TYPE scaling_jax_requests_total counter"]
        for (path, status), count in sorted(self.requests.items()):
            lines.append(f'scaling_jax_requests_total{{path="{path}",status="{status}"}} {count}')
        for name, kind, value in (
            ("tokens_total", "counter", self.tokens),
            ("compute_seconds_total", "counter", f"{self.seconds:.6f}"),
            ("waiting_requests", "gauge", self._waiting),
        ):
            lines += [f"# TYPE scaling_jax_{name} {kind}", f"scaling_jax_{name} {value}"]
        return "\n".join(lines) + "\n"

    def close(self) -> None:
        """Ends the thread."""
        self._thread.shutdown(wait=True, cancel_futures=True)


def make_app(
    models: Models, scale: str | None = None, run_id: str | None = None, limits: Limits = Limits()
) -> Starlette:
    """The ASGI application of one model.

    Raises:
      UserError: there is no such model, or its family gives no logits.
    """
    service = Service(models, scale, run_id, limits)

    def route(path: str, answer: Callable[[Service, Request], Any], method: str) -> Route:
        async def endpoint(request: Request) -> Response:
            try:
                response = await answer(service, request)
            except Refused as error:
                response = _refusal(error)
            except ClientDisconnect:
                response = Response(status_code=499)
            service.requests[path, response.status_code] += 1
            return response

        return Route(path, endpoint, methods=[method])

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        yield
        service.close()

    routes = [
        route("/health", _health, "GET"),
        route("/metrics", _metrics, "GET"),
        route("/v1/models", _models, "GET"),
        route("/v1/completions", _completions, "POST"),
        route("/v1/classify", _classify, "POST"),
    ]
    handlers = {404: _not_found, 405: _not_found, 500: _failed}
    app = Starlette(routes=routes, lifespan=lifespan, exception_handlers=handlers)
    app.state.service = service
    return app


async def _health(service: Service, request: Request) -> Response:
    return JSONResponse({"status": "ok", "model": service.name, "waiting": service.waiting})


async def _metrics(service: Service, request: Request) -> Response:
    return PlainTextResponse(service.metrics())


async def _models(service: Service, request: Request) -> Response:
    one = {"id": service.name, "object": "model", "created": service.created, "owned_by": "scaling_jax"}
    return JSONResponse({"object": "list", "data": [one]})


async def _completions(service: Service, request: Request) -> Response:
    if service.generator is None:
        raise Refused(404, f"model {service.name} classifies images: POST /v1/classify")
    asked = completion_of(await _body(request, service.limits), service.name)
    try:
        prompt_tokens = len(service.generator.encode(asked.prompt))
    except UserError as error:
        raise Refused(400, str(error)) from error
    room = service.generator.context - prompt_tokens
    if (asked.sampling.max_tokens or 0) > room:
        raise Refused(
            400, f"max_tokens: at most {room} follow this prompt in the context of {service.generator.context}"
        )
    head = {"id": f"cmpl-{uuid.uuid4().hex}", "object": "text_completion", "created": int(time.time())}
    head["model"] = service.name
    if asked.stream:
        if service.waiting > service.limits.queue:
            raise Refused(429, f"{service.waiting} requests are waiting: try again later", "rate_limit_exceeded")
        return StreamingResponse(_stream(service, asked, head), media_type="text/event-stream")
    text, count, reason = (asked.prompt if asked.echo else ""), 0, "length"
    with service.place():
        async with contextlib.aclosing(asked.cut(service.pieces(asked))) as pieces:
            async for piece in pieces:
                text, count, reason = text + piece.text, piece.count, piece.reason or reason
                if await request.is_disconnected():
                    raise ClientDisconnect()
    usage = {"prompt_tokens": prompt_tokens, "completion_tokens": count, "total_tokens": prompt_tokens + count}
    choice = {"index": 0, "text": text, "logprobs": None, "finish_reason": reason}
    return JSONResponse({**head, "choices": [choice], "usage": usage})


async def _stream(service: Service, asked: Completion, head: dict[str, Any]) -> AsyncIterator[str]:
    """Server-sent events; an error becomes an event, since the status is sent already."""

    def event(text: str, reason: str | None) -> str:
        choice = {"index": 0, "text": text, "logprobs": None, "finish_reason": reason}
        return f"data: {json.dumps({**head, 'choices': [choice]})}\n\n"

    reason = "length"
    try:
        with service.place():
            if asked.echo:
                yield event(asked.prompt, None)
            async with contextlib.aclosing(asked.cut(service.pieces(asked))) as pieces:
                async for piece in pieces:
                    reason = piece.reason or reason
                    if piece.text:
                        yield event(piece.text, None)
        yield event("", reason)
        yield "data: [DONE]\n\n"
    except Refused as error:
        yield f"data: {json.dumps(error.content())}\n\n"


async def _classify(service: Service, request: Request) -> Response:
    if service.classifier is None:
        raise Refused(404, f"model {service.name} generates text: POST /v1/completions")
    assert service.shape is not None
    image = image_of(await _body(request, service.limits), service.shape)
    with service.place():
        try:
            (found,) = await asyncio.wait_for(service.submit(service.classifier, image[None]), service.limits.timeout)
        except TimeoutError:
            raise Refused(504, f"no answer within {service.limits.timeout:g} s", "timeout") from None
    p = {name: round(float(x), 6) for name, x in zip(service.classifier.names, found.probabilities)}
    return JSONResponse(
        {"model": service.name, "class": found.name, "probability": round(found.probability, 6), "probabilities": p}
    )


async def _body(request: Request, limits: Limits) -> Any:
    """The JSON of a request.

    Raises:
      Refused: it is too large, too slow or not an object.
    """
    content = bytearray()
    try:
        async with asyncio.timeout(limits.timeout):
            async for part in request.stream():
                content += part
                if len(content) > limits.max_body:
                    raise Refused(413, f"a request has at most {limits.max_body} bytes")
    except TimeoutError:
        raise Refused(408, f"the request took more than {limits.timeout:g} s to arrive", "timeout") from None
    try:
        found = json.loads(bytes(content))
    except (ValueError, RecursionError) as error:
        raise Refused(400, f"the request is not JSON: {' '.join(str(error).split())[:100]}") from error
    if not isinstance(found, dict):
        raise Refused(400, "the request is not a JSON object")
    return found


def _refusal(error: Refused) -> Response:
    headers = {"Retry-After": "1"} if error.status == 429 else None
    return JSONResponse(error.content(), error.status, headers)


async def _not_found(request: Request, error: Exception) -> Response:
    there = "there are /v1/models, /v1/completions, /v1/classify, /health and /metrics"
    return _refusal(Refused(getattr(error, "status_code", 404), f"{request.method} {request.url.path}: {there}"))


async def _failed(request: Request, error: Exception) -> Response:
    return _refusal(Refused(500, f"{type(error).__name__} in the server", "server_error"))


class _Server(uvicorn.Server):
    """Exits with code 0 when it is asked to stop; uvicorn's own raises the signal again."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def serve(app: Any, host: str, port: int, say: Callable[[str], None]) -> None:
    """Listens until SIGTERM or Ctrl-C, then lets requests under way end for a few seconds.

    Raises:
      UserError: the address is in use or is not of this machine.
    """
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
    except OSError as error:
        raise UserError(f"cannot listen on {host}:{port} ({error.strerror or error}): give another --port") from error
    config = uvicorn.Config(
        app, log_level="warning", timeout_graceful_shutdown=SHUTDOWN_SECONDS, timeout_keep_alive=5, lifespan="on"
    )
    server = _Server(config)
    service = app.state.service
    service.warm()
    say(f"scaling-jax: {service.name} on http://{host}:{listener.getsockname()[1]}; Ctrl-C stops")
    server.run(sockets=[listener])
    say(f"scaling-jax: stopped after {sum(service.requests.values())} requests, {service.tokens} tokens")
