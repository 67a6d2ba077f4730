"""A SIMULATED inference server: SGLang's HTTP contract at a GPU's pace, without a model.

    python -m lamer.deploy.bench.paced --port 30000 --time-scale 8 --api-key KEY --admin-api-key ADMIN

`pace` decides on a virtual clock when which request is done, `live` runs that clock `time_scale` times as fast as the
wall's, and this module puts HTTP around it. Responses are random token ids of the drawn length (`fragments`); `text` is
empty, since there is no tokenizer. Every figure that this server yields is a simulation and is called so.

What differs from the real server: only one-dimensional `input_ids`, no streaming, a weight update costs no time, and
`/server_info` carries the simulation's counters (`PacedInfo`).
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import hmac
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
from aiohttp import web

from lamer.common.errors import MALFORMED
from lamer.common.records import FinishReason
from lamer.deploy.bench.fragments import ResponseFragments
from lamer.deploy.bench.live import DuplicateRequestError, LiveEngine
from lamer.deploy.bench.pace import Finished, Pace, ResponseLengths
from lamer.deploy.bench.wire import AdminRequest, GenerateRequest, PacedInfo

OPEN_ROUTES = frozenset({"/health", "/health_generate", "/ready"})
ADMIN_ROUTES = frozenset(
    {
        "/update_weights_from_disk",
        "/update_weight_version",
        "/pause_generation",
        "/continue_generation",
        "/abort_request",
        "/flush_cache",
    }
)
PAUSE_MODES = ("abort", "in_place", "retract")
MAX_BODY_BYTES = 16 * 1024 * 1024

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class PacedOptions:
    """What a paced server is started with. time_scale: simulated seconds per second of the wall's clock."""

    host: str = "127.0.0.1"
    port: int = 0
    time_scale: float = 8.0
    api_key: str = ""
    admin_key: str = ""
    model_path: str = "simulated"
    weight_version: str = "0"
    vocabulary: int = 512
    seed: int = 0
    pace: Pace = field(default_factory=Pace)


def _refuse(status: int, message: str) -> web.Response:
    return web.json_response({"error": {"message": message}}, status=status)


def _problem(body: GenerateRequest) -> str:
    """Why a request can't be run, "" if it can."""
    if not body.input_ids:
        return "input_ids is empty"
    if body.sampling_params.temperature < 0.0:
        return f"temperature must be non-negative, got {body.sampling_params.temperature}"
    if body.sampling_params.max_new_tokens < 1:
        return f"max_new_tokens must be at least 1, got {body.sampling_params.max_new_tokens}"
    return ""


async def _admin_body(request: web.Request) -> AdminRequest:
    try:
        return msgspec.json.decode(await request.read(), type=AdminRequest)
    except MALFORMED as error:
        raise web.HTTPBadRequest(text=f'{{"error":{{"message":"{error}"}}}}') from error


def _finish_reason(body: GenerateRequest, finished: Finished) -> dict[str, str | int]:
    """SGLang's `finish_reason`; a stop names the request's first stop string, as if that had been generated."""
    stop = body.sampling_params.stop
    match finished.finish:
        case FinishReason.LENGTH:
            return {"type": "length", "length": finished.tokens}
        case FinishReason.STOP:
            return {"type": "stop", "matched": stop if isinstance(stop, str) else (stop or [""])[0]}
        case FinishReason.ABORT:
            return {"type": "abort", "message": "Aborted"}


class PacedServer:
    """The routes of one simulated server."""

    def __init__(self, options: PacedOptions) -> None:
        self._options = options
        self._engine = LiveEngine(options.pace, options.weight_version, options.time_scale)
        self._lengths = ResponseLengths(seed=options.seed)
        self._fragments = ResponseFragments(options.vocabulary, options.seed)
        self._requests = 0
        self._model_path = options.model_path

    def make_app(self) -> web.Application:
        """The HTTP application. It needs `handler_cancellation`: a client that disconnects aborts its request."""
        app = web.Application(middlewares=[self._authorise], client_max_size=MAX_BODY_BYTES)
        app.router.add_post("/generate", self._generate)
        app.router.add_get("/model_info", self._model_info)
        app.router.add_get("/server_info", self._server_info)
        app.router.add_get("/v1/loads", self._loads)
        for route in sorted(OPEN_ROUTES):
            app.router.add_get(route, self._health)
        app.router.add_post("/pause_generation", self._pause)
        app.router.add_post("/continue_generation", self._continue)
        app.router.add_post("/update_weights_from_disk", self._update_weights)
        app.router.add_post("/update_weight_version", self._update_version)
        app.router.add_post("/abort_request", self._abort)
        app.router.add_post("/flush_cache", self._flush_cache)
        return app

    @web.middleware
    async def _authorise(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        options = self._options
        if request.path not in OPEN_ROUTES and (options.api_key or options.admin_key):
            is_admin = request.path in ADMIN_ROUTES and options.admin_key != ""
            wanted = f"Bearer {options.admin_key if is_admin else options.api_key}"
            if not hmac.compare_digest(request.headers.get("Authorization", "").encode(), wanted.encode()):
                return web.json_response({"error": "Unauthorized"}, status=401)
        return await handler(request)

    async def _generate(self, request: web.Request) -> web.Response:
        raw = await request.read()
        try:
            body = msgspec.json.decode(raw, type=GenerateRequest)
        except MALFORMED as error:
            return _refuse(400, f"the simulated server takes one-dimensional input_ids: {error}")
        if problem := _problem(body):
            return _refuse(400, problem)
        self._requests += 1
        rid = body.rid or f"paced-{self._requests}"
        key = body.sampling_params.sampling_seed
        if key is None:
            key = int.from_bytes(hashlib.blake2b(raw, digest_size=8).digest(), "little")
        drawn, limit = self._lengths.draw(key), body.sampling_params.max_new_tokens
        finish = FinishReason.STOP if drawn < limit else FinishReason.LENGTH
        try:
            finished = await self._engine.generate(rid, len(body.input_ids), min(drawn, limit), finish)
        except DuplicateRequestError as error:
            return _refuse(400, str(error))
        return web.Response(body=self._render(body, key, finished), content_type="application/json")

    def _render(self, body: GenerateRequest, key: int, finished: Finished) -> bytes:
        """The response's JSON; its two long arrays are prepared bytes."""
        sequence = finished.sequence
        meta = {
            "id": sequence.rid,
            "finish_reason": _finish_reason(body, finished),
            "prompt_tokens": sequence.prompt_tokens,
            "completion_tokens": finished.tokens,
            "cached_tokens": round((1.0 - self._options.pace.uncached_share) * sequence.prompt_tokens),
            "weight_version": sequence.spans[-1].version if sequence.spans else self._engine.version,
            "weight_versions": [span._asdict() for span in sequence.spans],
            "num_retractions": sequence.retractions,
            "e2e_latency": finished.time - sequence.arrived,
        }
        fragment = self._fragments.cut(key, finished.tokens)
        end = b',"output_token_logprobs":[' + fragment.logprobs + b"]}}" if body.return_logprob else b"}}"
        return b'{"text":"","output_ids":[' + fragment.ids + b'],"meta_info":' + msgspec.json.encode(meta)[:-1] + end

    async def _model_info(self, request: web.Request) -> web.Response:
        return web.json_response(
            {
                "model_path": self._model_path,
                "tokenizer_path": self._options.model_path,
                "is_generation": True,
                "weight_version": self._engine.version,
            }
        )

    async def _server_info(self, request: web.Request) -> web.Response:
        totals = self._engine.totals()
        info = PacedInfo(
            seconds=totals.seconds,
            tokens=totals.tokens,
            requests=totals.requests,
            steps=totals.steps,
            busy_seconds=totals.busy_seconds,
            cpu_seconds=time.process_time(),
            time_scale=self._options.time_scale,
            max_running_requests=self._options.pace.max_running,
        )
        return web.Response(body=msgspec.json.encode(info), content_type="application/json")

    async def _loads(self, request: web.Request) -> web.Response:
        running, waiting = self._engine.loads()
        rank = {"dp_rank": 0, "num_running_reqs": running, "num_waiting_reqs": waiting}
        return web.json_response({"dp_rank_count": 1, "loads": [rank]})

    async def _health(self, request: web.Request) -> web.Response:
        is_held = self._engine.is_paused and self._engine.pending > 0 and request.path != "/ready"
        return web.Response(status=503 if is_held else 200)

    async def _pause(self, request: web.Request) -> web.Response:
        mode = (await _admin_body(request)).mode
        if mode not in PAUSE_MODES:
            return _refuse(400, f"mode is one of {', '.join(PAUSE_MODES)}, got {mode!r}")
        if mode == "abort":
            self._engine.abort_all()
        self._engine.pause(retract=mode == "retract")
        return web.json_response({"message": "Generation paused successfully.", "status": "ok"})

    async def _continue(self, request: web.Request) -> web.Response:
        await _admin_body(request)
        self._engine.resume()
        return web.json_response({"message": "Generation continued successfully.", "status": "ok"})

    async def _update_weights(self, request: web.Request) -> web.Response:
        body = await _admin_body(request)
        if not await asyncio.to_thread(Path(body.model_path).is_dir):
            message = f"no model folder at {body.model_path!r}"
            return web.json_response({"success": False, "message": message, "num_paused_requests": 0}, status=400)
        if body.abort_all_requests:
            self._engine.abort_all()
        label = body.weight_version if body.weight_version is not None else self._engine.version
        if self._engine.is_paused:
            self._engine.set_version(label)
        else:
            await self._engine.drained_set_version(label)
        self._model_path = body.model_path
        held = self._engine.pending if self._engine.is_paused else 0
        return web.json_response({"success": True, "message": "Succeeded.", "num_paused_requests": held})

    async def _update_version(self, request: web.Request) -> web.Response:
        body = await _admin_body(request)
        if body.abort_all_requests:
            self._engine.abort_all()
        self._engine.set_version(body.new_version)
        return web.json_response({"success": True, "message": "Succeeded.", "new_version": body.new_version})

    async def _abort(self, request: web.Request) -> web.Response:
        body = await _admin_body(request)
        if body.abort_all:
            self._engine.abort_all()
        else:
            self._engine.abort(body.rid)
        return web.Response()

    async def _flush_cache(self, request: web.Request) -> web.Response:
        return web.Response(text="Cache flushed.")


def parse_options(arguments: list[str] | None = None) -> PacedOptions:
    """The command line as options."""
    default = PacedOptions()
    parser = argparse.ArgumentParser(
        prog="python -m lamer.deploy.bench.paced", description="A SIMULATED inference server."
    )
    parser.add_argument("--host", default=default.host)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--time-scale", type=float, default=default.time_scale)
    parser.add_argument("--api-key", default="")
    parser.add_argument("--admin-api-key", default="")
    parser.add_argument("--model-path", default=default.model_path)
    parser.add_argument("--vocabulary", type=int, default=default.vocabulary)
    parser.add_argument("--seed", type=int, default=default.seed)
    parser.add_argument("--max-running-requests", type=int, default=default.pace.max_running)
    parsed = parser.parse_args(arguments)
    return PacedOptions(
        host=parsed.host,
        port=parsed.port,
        time_scale=parsed.time_scale,
        api_key=parsed.api_key,
        admin_key=parsed.admin_api_key,
        model_path=parsed.model_path,
        vocabulary=parsed.vocabulary,
        seed=parsed.seed,
        pace=Pace(max_running=parsed.max_running_requests),
    )


def main() -> None:
    """Serve until SIGINT or SIGTERM."""
    options = parse_options()

    async def make_app() -> web.Application:
        return PacedServer(options).make_app()

    web.run_app(
        make_app(), host=options.host, port=options.port, handler_cancellation=True, access_log=None, print=None,
        backlog=2048, shutdown_timeout=1.0,
    )  # fmt: skip


if __name__ == "__main__":
    main()
