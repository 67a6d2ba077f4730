"""The HTTP server: SGLang's routes over an `Engine`, and the lifetime of both.

A handler whose client disconnects is cancelled, and its sequences are aborted. The engine's loop and the server live in
one task group: an error of a step takes the process down rather than leave requests hanging.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import msgspec
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from lamer.common.errors import BadInput, Missing
from lamer.common.liveness.line_budget import limited
from lamer.common.text import describe_error
from lamer.deploy.inference.embedded.api import (
    AbortBody,
    Generation,
    PauseBody,
    UpdateWeightsBody,
    WeightVersionBody,
    decode_body,
    make_reply,
    parse_generate,
)
from lamer.deploy.inference.embedded.auth import Keys
from lamer.deploy.inference.embedded.engine import DuplicateRequest, Engine, Overloaded
from lamer.deploy.inference.embedded.sequence import Generated, Sequence

MOST_BODY_BYTES = 8 * 1024 * 1024
_SHUTDOWN_SECONDS = 1.0

log = logging.getLogger("lamer.engine")

_encoder = msgspec.json.Encoder()


def _json(value: object, status: int = 200) -> web.Response:
    return web.Response(body=_encoder.encode(value), status=status, content_type="application/json")


def _error(message: str, status: int = 400) -> web.Response:
    kind = "BadRequestError" if status == 400 else "Error"
    return _json({"error": {"message": message, "type": kind, "param": None, "code": status}}, status)


def _guard(keys: Keys) -> Middleware:
    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        """Checks the key, and turns a request's own errors into SGLang's error body."""
        if not keys.allows(request.path, request.headers.get("Authorization", "")):
            return _json({"error": "Unauthorized"}, 401)
        try:
            return await handler(request)
        except (BadInput, DuplicateRequest) as error:
            return _error(str(error))
        except Overloaded as error:
            return _error(str(error), 503)
        except web.HTTPRequestEntityTooLarge:
            return _error(f"the body has more than {MOST_BODY_BYTES} bytes", 413)
        except web.HTTPException:
            raise
        except Exception as error:  # a defect that this request found
            log.exception("%s failed", request.path)
            return _error(f"a defect of the engine: {describe_error(error)}", 500)

    return guard


class Routes:
    """The handlers. Each reads its body, calls the engine and answers; none keeps state."""

    def __init__(self, engine: Engine, keys: Keys) -> None:
        self.engine = engine
        self._keys = keys

    def application(self) -> web.Application:
        """The aiohttp application with every route."""
        keys = self._keys
        app = web.Application(middlewares=[_guard(keys)], client_max_size=MOST_BODY_BYTES)
        for path, handler in (
            ("/health", self.health),
            ("/ready", self.health),
            ("/health_generate", self.health_generate),
            ("/model_info", self.model_info),
            ("/get_model_info", self.model_info),
            ("/server_info", self.server_info),
            ("/get_server_info", self.server_info),
            ("/v1/loads", self.loads),
            ("/flush_cache", self.flush_cache),
        ):
            app.router.add_get(path, handler)
        for path, post in (
            ("/generate", self.generate),
            ("/flush_cache", self.flush_cache),
            ("/pause_generation", self.pause),
            ("/continue_generation", self.resume),
            ("/abort_request", self.abort),
            ("/update_weights_from_disk", self.update_weights),
            ("/update_weight_version", self.update_weight_version),
        ):
            app.router.add_post(path, post)
        return app

    # -- generation -------------------------------------------------------------------------------------------------
    async def generate(self, request: web.Request) -> web.StreamResponse:
        """POST /generate: one reply, a list of them for a batch or n > 1, or a stream of server-sent events."""
        generation = await parse_generate(await request.read(), self.engine)
        self.engine.submit(generation.sequences)
        try:
            if generation.is_stream:
                return await self._stream(request, generation)
            for sequence in generation.sequences:
                await sequence.done
        finally:
            if any(sequence.finish is None for sequence in generation.sequences):
                self.engine.abort(generation.sequences, "the client disconnected")
        failed = [sequence.failure for sequence in generation.sequences if sequence.failure]
        if failed:
            return _error(failed[0], 500)
        replies = [make_reply(sequence, self.engine, sequence.saved) for sequence in generation.sequences]
        return _json(replies if generation.is_list else replies[0])

    async def _stream(self, request: web.Request, generation: Generation) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for index, sequence in enumerate(generation.sequences):
            async for generated in self._growth(sequence):
                reply = msgspec.to_builtins(make_reply(sequence, self.engine, generated))
                if generation.is_list:
                    reply["index"] = index
                await response.write(b"data: " + _encoder.encode(reply) + b"\n\n")
        await response.write(b"data: [DONE]\n\n")
        return response

    async def _growth(self, sequence: Sequence) -> AsyncIterator[Generated]:
        """What `sequence` has generated, each time it has grown, and at last all of it."""
        progress = sequence.progress
        assert progress is not None
        while sequence.finish is None:
            await progress.wait()
            progress.clear()
            if sequence.row >= 0:
                yield self.engine.scheduler.table.generated(sequence.row)
        yield sequence.saved

    async def health(self, request: web.Request) -> web.Response:
        """GET /health and /ready: 200, or 503 while a pause holds requests."""
        is_stuck = self.engine.pause_mode is not None and self.engine.running_count + self.engine.waiting_count > 0
        return web.Response(status=503 if is_stuck else 200)

    async def health_generate(self, request: web.Request) -> web.Response:
        """GET /health_generate: as /health, after generating a token for who may generate."""
        may_generate = self._keys.allows("/generate", request.headers.get("Authorization", ""))
        if may_generate and self.engine.pause_mode is None:
            probe = await parse_generate(b'{"input_ids":[0],"sampling_params":{"max_new_tokens":1}}', self.engine)
            self.engine.submit(probe.sequences)
            try:
                await probe.sequences[0].done
            finally:
                self.engine.abort(probe.sequences, "the client disconnected")
        return await self.health(request)

    # -- information ------------------------------------------------------------------------------------------------
    async def model_info(self, request: web.Request) -> web.Response:
        """GET /model_info."""
        path = str(self.engine.model.folder)
        return _json(
            {
                "model_path": path,
                "tokenizer_path": str(self.engine.options.model_path),
                "is_generation": True,
                "weight_version": self.engine.weight_version,
                "model_type": self.engine.model.module.config.model_type,
                "architectures": self.engine.model.module.config.architectures,
                "has_tokenizer": self.engine.text.has_tokenizer,
            }
        )

    async def server_info(self, request: web.Request) -> web.Response:
        """GET /server_info."""
        options, cache = self.engine.options, self.engine.scheduler.cache
        return _json(
            {
                "engine": "lamer-embedded",
                "model_path": str(self.engine.model.folder),
                "weight_version": self.engine.weight_version,
                "dtype": options.dtype,
                "context_length": self.engine.model.context,
                "max_running_requests": options.max_running,
                "max_total_num_tokens": options.max_total_tokens,
                "cache": {"rows": cache.rows, "row_tokens": cache.capacity, "remembered": cache.remembered_tokens},
            }
        )

    async def loads(self, request: web.Request) -> web.Response:
        """GET /v1/loads: running and waiting sequences."""
        running, waiting = self.engine.running_count, self.engine.waiting_count
        load = {"num_running_reqs": running, "num_waiting_reqs": waiting, "num_total_reqs": running + waiting}
        total = {"total_running_reqs": running, "total_waiting_reqs": waiting, "total_reqs": running + waiting}
        return _json(
            {"timestamp": time.time(), "dp_rank_count": 1, "loads": [{"dp_rank": 0, **load}], "aggregate": total}
        )

    # -- administration ---------------------------------------------------------------------------------------------
    async def pause(self, request: web.Request) -> web.Response:
        """POST /pause_generation {mode}."""
        mode = decode_body(await request.read(), PauseBody).mode
        self.engine.pause(mode)
        return _json({"status": "ok", "message": f"Generation paused ({mode.value})."})

    async def resume(self, request: web.Request) -> web.Response:
        """POST /continue_generation {}."""
        self.engine.resume()
        return _json({"status": "ok", "message": "Generation continued."})

    async def abort(self, request: web.Request) -> web.Response:
        """POST /abort_request {rid} or {abort_all}; 200 for an unknown rid as well."""
        body = decode_body(await request.read(), AbortBody)
        if body.abort_all:
            self.engine.abort_all()
        else:
            self.engine.abort_request(body.rid)
        return web.Response(status=200)

    async def flush_cache(self, request: web.Request) -> web.Response:
        """GET or POST /flush_cache: 400 while sequences hold rows."""
        if not self.engine.flush_cache():
            return web.Response(status=400, text=f"{self.engine.running_count} requests run: nothing was flushed.\n")
        return web.Response(text="Cache flushed.\n")

    async def update_weights(self, request: web.Request) -> web.Response:
        """POST /update_weights_from_disk: 400 with success false, and the old weights, when it fails."""
        body = decode_body(await request.read(), UpdateWeightsBody)
        try:
            await self.engine.update_weights(
                Path(body.model_path), body.weight_version, body.abort_all_requests, body.keep_pause
            )
        except BadInput as error:
            return _json({"success": False, "message": str(error), "num_paused_requests": 0}, 400)
        return _json({"success": True, "message": "Succeeded to update model weights.", "num_paused_requests": 0})

    async def update_weight_version(self, request: web.Request) -> web.Response:
        """POST /update_weight_version {new_version, abort_all_requests}."""
        body = decode_body(await request.read(), WeightVersionBody)
        if body.abort_all_requests:
            self.engine.abort_all()
        self.engine.set_weight_version(body.new_version)
        return _json({"success": True, "message": "Weight version updated.", "new_version": body.new_version})


def bind(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes a free one. Raises Missing when it can't be had."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=1024)
    except OSError as error:
        raise Missing(f"can't listen on {host}:{port}: {error.strerror or error}") from error


async def _until_signal(stop: asyncio.Event) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await stop.wait()


async def serve(engine: Engine, keys: Keys, listener: socket.socket, announce: Callable[[str], None]) -> None:
    """Serves until SIGTERM or SIGINT. `announce` gets the URL once requests are answered."""
    stop = asyncio.Event()
    runner = web.AppRunner(
        Routes(engine, keys).application(),
        handler_cancellation=True,
        access_log=None,
        shutdown_timeout=_SHUTDOWN_SECONDS,
    )
    await runner.setup()
    try:
        await web.SockSite(runner, listener).start()
        host, port = listener.getsockname()[:2]
        with limited(log):
            async with asyncio.TaskGroup() as group:
                stepping = group.create_task(engine.run())
                announce(f"http://{host}:{port}")
                await _until_signal(stop)
                engine.abort_all("the server is shutting down")
                stepping.cancel()
    finally:
        with contextlib.suppress(asyncio.TimeoutError):
            await runner.cleanup()
