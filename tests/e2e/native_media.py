"""Synthetic media and its meters, for the native client."""

from __future__ import annotations

import asyncio
import time
from typing import Any, Callable, Optional

import numpy as np
from livekit import rtc

STAMP_BITS = 32
"""A stamp is the low 32 bits of Unix time in milliseconds, one block per bit, most significant first."""
STAMP_ROWS = 2
"""The second row of blocks is the first one inverted."""
SAMPLE_RATE = 48_000
FRAME_SAMPLES = SAMPLE_RATE // 50
"""Audio is captured in frames of 20 ms."""
DELAYS_MAX = 4096
"""Delays kept for percentiles; older ones fall out."""


def stamp_height(height: int) -> int:
    """Height in pixels of one row of stamp blocks: 1/10 of the picture, so that it survives downscaling."""
    return max(2, height // 10)


def write_stamp(luma: np.ndarray, value: int) -> None:
    """Draws `value` across the top of a luma plane of shape (height, width)."""
    height, width = luma.shape
    row = stamp_height(height)
    bits = np.array([(value >> (STAMP_BITS - 1 - bit)) & 1 for bit in range(STAMP_BITS)], dtype=np.uint8)
    columns = bits[(np.arange(width) * STAMP_BITS) // width]
    luma[:row] = 32 + 192 * columns
    luma[row : 2 * row] = 32 + 192 * (1 - columns)


def read_stamp(luma: np.ndarray) -> Optional[int]:
    """Reads a stamp, or None when a block and its inverse do not tell apart."""
    height, width = luma.shape
    row = stamp_height(height)
    centres = ((np.arange(STAMP_BITS) * 2 + 1) * width) // (2 * STAMP_BITS)
    first = luma[row // 2, centres].astype(np.int16)
    second = luma[row + row // 2, centres].astype(np.int16)
    difference = first - second
    if np.any(np.abs(difference) < 64):
        return None
    return int("".join("1" if one > 0 else "0" for one in difference), 2)


class VideoPattern:
    """A picture with a moving gradient and a stamp, captured at a steady rate."""

    def __init__(self, width: int, height: int, fps: int) -> None:
        self.width, self.height, self.fps = width, height, fps
        self.source = rtc.VideoSource(width, height)
        self.frames = 0
        self._running = True
        ramp = np.add.outer(np.arange(height), np.arange(width * 2)) % 256
        self._ramp = ramp.astype(np.uint8)

    def picture(self) -> bytearray:
        """The next frame as I420: a luma plane, then both chroma planes at a quarter of its size."""
        shift = (self.frames * 4) % self.width
        luma = self._ramp[:, shift : shift + self.width].copy()
        write_stamp(luma, int(time.time() * 1000) & 0xFFFF_FFFF)
        chroma_size = ((self.width + 1) // 2) * ((self.height + 1) // 2)
        chroma = np.full(chroma_size * 2, 128, dtype=np.uint8)
        chroma[:chroma_size] = (self.frames * 2) % 256
        return bytearray(luma.tobytes() + chroma.tobytes())

    async def run(self) -> None:
        period = 1.0 / self.fps
        due = time.monotonic()
        while self._running:
            frame = rtc.VideoFrame(self.width, self.height, rtc.VideoBufferType.I420, self.picture())
            self.source.capture_frame(frame)
            self.frames += 1
            due = max(due + period, time.monotonic() - period)
            await asyncio.sleep(max(0.0, due - time.monotonic()))

    def stop(self) -> None:
        self._running = False


class ToneSource:
    """A sine tone at a quarter of full scale."""

    def __init__(self, hertz: float) -> None:
        self.source = rtc.AudioSource(SAMPLE_RATE, 1)
        self._step = 2.0 * np.pi * hertz / SAMPLE_RATE
        self._phase = 0.0
        self._running = True

    async def run(self) -> None:
        while self._running:
            phases = self._phase + self._step * np.arange(FRAME_SAMPLES)
            samples = (np.sin(phases) * 8192).astype(np.int16)
            self._phase = float((self._phase + self._step * FRAME_SAMPLES) % (2.0 * np.pi))
            frame = rtc.AudioFrame(samples.tobytes(), SAMPLE_RATE, 1, FRAME_SAMPLES)
            await self.source.capture_frame(frame)

    def stop(self) -> None:
        self._running = False


class VideoMeter:
    """Counts decoded frames of a remote track, their sizes, gaps and end-to-end delays."""

    def __init__(self, track: rtc.Track, sid: str, identity: str, told: Callable[..., None]) -> None:
        self.track, self.sid, self.identity = track, sid, identity
        self._told = told
        self.frames = 0
        self.size = (0, 0)
        self.first_ms: Optional[float] = None
        self.last_ms: Optional[float] = None
        self.gap_ms_max = 0.0
        self.delays: list[float] = []

    async def run(self) -> None:
        stream = rtc.VideoStream(self.track, capacity=8, format=rtc.VideoBufferType.I420)
        try:
            async for event in stream:
                self._count(event.frame)
        finally:
            await stream.aclose()

    def _count(self, frame: rtc.VideoFrame) -> None:
        now = time.time() * 1000.0
        if self.first_ms is None:
            self.first_ms = now
            self._told("first_frame", identity=self.identity, sid=self.sid)
        if self.last_ms is not None:
            self.gap_ms_max = max(self.gap_ms_max, now - self.last_ms)
        self.last_ms = now
        self.frames += 1
        size = (frame.width, frame.height)
        if size != self.size:
            self.size = size
            self._told("frame_size", identity=self.identity, sid=self.sid, width=size[0], height=size[1])
        luma = np.frombuffer(frame.data, dtype=np.uint8, count=size[0] * size[1]).reshape(size[1], size[0])
        stamp = read_stamp(luma)
        if stamp is not None:
            delay = (int(now) - stamp) & 0xFFFF_FFFF
            if delay < 60_000:
                self.delays.append(float(delay))
                del self.delays[:-DELAYS_MAX]

    def snapshot(self) -> dict[str, Any]:
        """Counts since the start; gap and delays (ms) since the last snapshot."""
        gap, self.gap_ms_max = self.gap_ms_max, 0.0
        delays, self.delays = sorted(self.delays), []
        return {
            "sid": self.sid,
            "identity": self.identity,
            "kind": "video",
            "frames": self.frames,
            "width": self.size[0],
            "height": self.size[1],
            "first_ms": self.first_ms,
            "last_ms": self.last_ms,
            "gap_ms_max": round(gap, 1),
            "delay_ms_p50": delays[len(delays) // 2] if delays else None,
            "delay_ms_p95": delays[(len(delays) * 95) // 100] if delays else None,
        }


class AudioMeter:
    """Sums the energy of a remote track and tells its pitch."""

    def __init__(self, track: rtc.Track, sid: str, identity: str, _told: Callable[..., None]) -> None:
        self.track, self.sid, self.identity = track, sid, identity
        self.energy = 0.0
        self.seconds = 0.0
        self.level = 0.0
        self.hertz = 0.0
        self._window = np.zeros(0, dtype=np.int16)

    async def run(self) -> None:
        stream = rtc.AudioStream(self.track, capacity=50, sample_rate=SAMPLE_RATE, num_channels=1)
        try:
            async for event in stream:
                self._count(np.frombuffer(event.frame.data, dtype=np.int16))
        finally:
            await stream.aclose()

    def _count(self, samples: np.ndarray) -> None:
        scaled = samples.astype(np.float64) / 32768.0
        seconds = len(samples) / SAMPLE_RATE
        self.energy += float(np.mean(scaled**2)) * seconds
        self.seconds += seconds
        self._window = np.concatenate([self._window, samples])[-SAMPLE_RATE // 2 :]

    def snapshot(self) -> dict[str, Any]:
        """`energy` is the sum of mean square × seconds since the start, as getStats' totalAudioEnergy."""
        window = self._window.astype(np.float64)
        if len(window) == SAMPLE_RATE // 2:
            spectrum = np.abs(np.fft.rfft(window * np.hanning(len(window))))
            self.hertz = float(np.argmax(spectrum) * SAMPLE_RATE / len(window))
            self.level = float(np.sqrt(np.mean((window / 32768.0) ** 2)))
        return {
            "sid": self.sid,
            "identity": self.identity,
            "kind": "audio",
            "energy": self.energy,
            "seconds": round(self.seconds, 3),
            "level": round(self.level, 5),
            "hz": round(self.hertz, 1),
        }
