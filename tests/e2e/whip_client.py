"""A WHIP publisher and WHEP player by aiortc, driven by JSON lines as `native_client.py` is."""

from __future__ import annotations

import asyncio
import fractions
import json
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from typing import Any, Optional

import numpy as np
from aiortc import MediaStreamTrack, RTCPeerConnection, RTCSessionDescription
from aiortc.mediastreams import MediaStreamError
from av import AudioFrame, VideoFrame

SAMPLE_RATE = 48_000
FRAME_SAMPLES = SAMPLE_RATE // 50


def emit(message: dict[str, Any]) -> None:
    """Prints one JSON line at once."""
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def now_ms() -> float:
    return time.time() * 1000.0


class Picture(MediaStreamTrack):
    """A moving gradient."""

    kind = "video"

    def __init__(self, width: int, height: int, fps: int) -> None:
        super().__init__()
        self.width, self.height, self.fps = width, height, fps
        self.count = 0
        self.began: Optional[float] = None

    async def recv(self) -> VideoFrame:
        if self.readyState != "live":
            raise MediaStreamError
        loop = asyncio.get_running_loop()
        self.began = self.began or loop.time()
        await asyncio.sleep(max(0.0, self.began + self.count / self.fps - loop.time()))
        ramp = np.add.outer(np.arange(self.height), np.arange(self.width)) + 4 * self.count
        luma = (ramp % 256).astype(np.uint8)
        chroma = np.full((self.height // 2, self.width), (self.count * 2) % 256, dtype=np.uint8)
        frame = VideoFrame.from_ndarray(np.vstack([luma, chroma]), format="yuv420p")
        frame.pts, frame.time_base = self.count * 90_000 // self.fps, fractions.Fraction(1, 90_000)
        self.count += 1
        return frame


class Tone(MediaStreamTrack):
    """A sine tone of 440 Hz at a quarter of full scale."""

    kind = "audio"

    def __init__(self) -> None:
        super().__init__()
        self.count = 0
        self.began: Optional[float] = None

    async def recv(self) -> AudioFrame:
        if self.readyState != "live":
            raise MediaStreamError
        loop = asyncio.get_running_loop()
        self.began = self.began or loop.time()
        await asyncio.sleep(max(0.0, self.began + self.count * FRAME_SAMPLES / SAMPLE_RATE - loop.time()))
        at = np.arange(FRAME_SAMPLES) + self.count * FRAME_SAMPLES
        samples = (np.sin(2.0 * np.pi * 440.0 * at / SAMPLE_RATE) * 8192).astype(np.int16)
        frame = AudioFrame.from_ndarray(samples.reshape(1, -1), format="s16", layout="mono")
        frame.pts, frame.sample_rate = self.count * FRAME_SAMPLES, SAMPLE_RATE
        frame.time_base = fractions.Fraction(1, SAMPLE_RATE)
        self.count += 1
        return frame


def ask(method: str, url: str, token: str, body: Optional[str] = None) -> tuple[int, dict[str, str], str]:
    """One HTTP request; errors are answers too."""
    headers = {"Authorization": f"Bearer {token}"}
    if body is not None:
        headers["Content-Type"] = "application/sdp"
    request = urllib.request.Request(url, method=method, headers=headers, data=body.encode() if body else None)
    try:
        with urllib.request.urlopen(request, timeout=15) as answer:
            return answer.status, dict(answer.headers.items()), answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, dict(error.headers.items()), error.read().decode()


class Client:
    """One session."""

    def __init__(self) -> None:
        self.connection: Optional[RTCPeerConnection] = None
        self.session: Optional[tuple[str, str]] = None
        self.received = {"video": 0, "audio": 0}
        self.energy = 0.0
        self.size = (0, 0)
        self.first_ms: Optional[float] = None
        self.tasks: set[asyncio.Task[None]] = set()

    async def publish(self, command: dict[str, Any]) -> dict[str, Any]:
        """Publishes the moving picture and the tone: `url`, `token`, `width`, `height`, `fps`; `setup` is our DTLS role."""
        self.connection = RTCPeerConnection()
        picture = Picture(command.get("width", 320), command.get("height", 240), command.get("fps", 15))
        self.connection.addTransceiver(Tone(), direction="sendonly")
        self.connection.addTransceiver(picture, direction="sendonly")
        return await self._exchange(command)

    async def play(self, command: dict[str, Any]) -> dict[str, Any]:
        """Plays what the room shows: `url`, `token`."""
        self.connection = RTCPeerConnection()
        self.connection.addTransceiver("audio", direction="recvonly")
        self.connection.addTransceiver("video", direction="recvonly")

        @self.connection.on("track")
        def on_track(track: MediaStreamTrack) -> None:
            task = asyncio.get_running_loop().create_task(self._consume(track))
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)

        return await self._exchange(command)

    async def _exchange(self, command: dict[str, Any]) -> dict[str, Any]:
        connection = self.connection
        assert connection is not None
        connection.on("connectionstatechange", lambda: emit({"event": connection.connectionState, "at_ms": now_ms()}))
        await connection.setLocalDescription(await connection.createOffer())
        started = now_ms()
        offer = connection.localDescription.sdp.replace("a=setup:actpass", f"a=setup:{command.get('setup', 'actpass')}")
        status, headers, body = await asyncio.to_thread(ask, "POST", command["url"], command["token"], offer)
        took = now_ms() - started
        if status != 201:
            raise ValueError(f"{status}: {body}")
        fields = {name.lower(): value for name, value in headers.items()}
        location = urllib.parse.urljoin(command["url"], fields["location"])
        self.session = (location, command["token"])
        await connection.setRemoteDescription(RTCSessionDescription(body, "answer"))
        return {"location": location, "etag": fields["etag"], "post_ms": took, "answer": body}

    async def _consume(self, track: MediaStreamTrack) -> None:
        while True:
            try:
                frame = await track.recv()
            except MediaStreamError:
                return
            self.received[track.kind] += 1
            if track.kind == "video":
                self.first_ms = self.first_ms or now_ms()
                self.size = (frame.width, frame.height)
            else:
                samples = frame.to_ndarray().astype(np.float64) / 32768.0
                self.energy += float(np.mean(samples**2)) * frame.samples / frame.sample_rate

    async def stats(self, _command: dict[str, Any]) -> dict[str, Any]:
        width, height = self.size
        video = {"kind": "video", "frames": self.received["video"], "width": width, "height": height, "first_ms": self.first_ms}
        audio = {"kind": "audio", "frames": self.received["audio"], "energy": self.energy}
        tracks = [track | {"identity": "whep"} for track in (video, audio)]
        return {"tracks": tracks, "at_ms": now_ms()}

    async def end(self, _command: dict[str, Any]) -> dict[str, Any]:
        """Ends the session by DELETE."""
        if self.session is None:
            raise ValueError("there is no session")
        started = now_ms()
        status, _, _ = await asyncio.to_thread(ask, "DELETE", *self.session)
        self.session = None
        return {"status": status, "delete_ms": now_ms() - started}

    async def vanish(self, _command: dict[str, Any]) -> dict[str, Any]:
        """Closes the connection and says nothing by HTTP."""
        self.session = None
        await self._close()
        return {}

    async def leave(self, _command: dict[str, Any]) -> dict[str, Any]:
        if self.session is not None:
            await self.end({})
        await self._close()
        return {}

    async def _close(self) -> None:
        if self.connection is not None:
            await self.connection.close()
            self.connection = None


async def serve() -> None:
    client = Client()
    actions = {name: getattr(client, name) for name in ("publish", "play", "stats", "end", "vanish", "leave")}
    reader = asyncio.StreamReader(limit=4 * 1024 * 1024)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    emit({"event": "ready", "at_ms": now_ms()})
    while line := await reader.readline():
        command = json.loads(line)
        try:
            answer = await actions[command["do"]](command)
            emit({"id": command["id"], "ok": True, **answer})
        except Exception as error:
            emit({"id": command["id"], "ok": False, "error": f"{type(error).__name__}: {error}"})
    await client.leave({})


if __name__ == "__main__":
    asyncio.run(serve())
