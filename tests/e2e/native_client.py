"""A native client of the mesh, driven by JSON lines.

Reads one command per line on stdin, `{"id": 1, "do": "join", ...}`, and answers each with one line on stdout,
`{"id": 1, "ok": true, ...}` or `{"id": 1, "ok": false, "error": "..."}`. What happens in the room is printed as
`{"event": "...", "at_ms": <Unix time in ms>, ...}`. The end of stdin means: leave and exit.

Media is synthetic: a moving picture that carries its time of capture as two rows of black and white blocks (the second
row is the first one inverted, so that a damaged stamp is recognised), and a sine tone. A receiver counts decoded frames
and their sizes, reads the stamps, and measures the energy and pitch of audio.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any, Optional

from livekit import rtc
from livekit.rtc._ffi_client import FfiClient
from livekit.rtc._proto import ffi_pb2

from native_media import AudioMeter, ToneSource, VideoMeter, VideoPattern

CODECS = {
    "vp8": rtc.VideoCodec.VP8,
    "h264": rtc.VideoCodec.H264,
    "vp9": rtc.VideoCodec.VP9,
    "av1": rtc.VideoCodec.AV1,
}
QUALITIES = {
    "low": rtc.VideoQuality.VIDEO_QUALITY_LOW,
    "medium": rtc.VideoQuality.VIDEO_QUALITY_MEDIUM,
    "high": rtc.VideoQuality.VIDEO_QUALITY_HIGH,
}


def now_ms() -> float:
    """Unix time in milliseconds; the browsers on this machine use the same clock."""
    return time.time() * 1000.0


def emit(message: dict[str, Any]) -> None:
    """Prints one JSON line at once."""
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def kind_name(kind: int) -> str:
    return "video" if kind == rtc.TrackKind.KIND_VIDEO else "audio"


class Client:
    """One participant: a room, what it publishes, and meters for what it receives."""

    def __init__(self) -> None:
        self.room: Optional[rtc.Room] = None
        self.meters: dict[str, VideoMeter | AudioMeter] = {}
        self.tasks: set[asyncio.Task[None]] = set()
        self.sources: dict[str, VideoPattern | ToneSource] = {}
        self.publications: dict[str, rtc.LocalTrackPublication] = {}

    async def join(self, command: dict[str, Any]) -> dict[str, Any]:
        """Connects; `v` 0 asks for two peer connections, 1 for a single one."""
        room = rtc.Room()
        self.room = room
        self._listen(room)
        options = rtc.RoomOptions(
            auto_subscribe=command.get("auto_subscribe", True),
            dynacast=command.get("dynacast", False),
            single_peer_connection=command.get("v", 1) == 1,
            connect_timeout=command.get("timeout_s", 10.0),
        )
        await room.connect(command["url"], command["token"], options)
        return {"sid": room.local_participant.sid, "participants": self._identities()}

    async def publish_video(self, command: dict[str, Any]) -> dict[str, Any]:
        """Publishes the moving picture: `width`, `height`, `fps`, `codec`, `simulcast`, `bitrate` (bit/s)."""
        pattern = VideoPattern(command.get("width", 320), command.get("height", 180), command.get("fps", 15))
        track = rtc.LocalVideoTrack.create_video_track("camera", pattern.source)
        options = rtc.TrackPublishOptions(
            source=rtc.TrackSource.SOURCE_CAMERA,
            video_codec=CODECS[command.get("codec", "vp8")],
            simulcast=command.get("simulcast", False),
        )
        if "bitrate" in command:
            options.video_encoding.max_bitrate = command["bitrate"]
            options.video_encoding.max_framerate = pattern.fps
        return await self._publish("video", track, options, pattern)

    async def publish_audio(self, command: dict[str, Any]) -> dict[str, Any]:
        """Publishes a tone of `hz` hertz; `red` and `dtx` choose how Opus is sent."""
        tone = ToneSource(command.get("hz", 440))
        track = rtc.LocalAudioTrack.create_audio_track("microphone", tone.source)
        options = rtc.TrackPublishOptions(
            source=rtc.TrackSource.SOURCE_MICROPHONE,
            red=command.get("red", True),
            dtx=command.get("dtx", False),
        )
        return await self._publish("audio", track, options, tone)

    async def _publish(self, kind: str, track: Any, options: Any, source: Any) -> dict[str, Any]:
        publication = await self._joined().local_participant.publish_track(track, options)
        self.sources[kind] = source
        self.publications[kind] = publication
        self._spawn(source.run())
        return {"sid": publication.sid}

    async def mute(self, command: dict[str, Any]) -> dict[str, Any]:
        """Mutes or unmutes what is published as `kind`."""
        track = self.publications[command["kind"]].track
        if track is None:
            raise ValueError("the track is gone")
        if command["muted"]:
            track.mute()
        else:
            track.unmute()
        return {}

    async def unpublish(self, command: dict[str, Any]) -> dict[str, Any]:
        publication = self.publications.pop(command["kind"])
        self.sources.pop(command["kind"]).stop()
        await self._joined().local_participant.unpublish_track(publication.sid)
        return {}

    async def send(self, command: dict[str, Any]) -> dict[str, Any]:
        """Sends `payload` (text) as a data packet; `to` limits it to some identities."""
        await self._joined().local_participant.publish_data(
            command["payload"],
            reliable=command.get("reliable", True),
            destination_identities=command.get("to", []),
            topic=command.get("topic", ""),
        )
        return {}

    async def settings(self, command: dict[str, Any]) -> dict[str, Any]:
        """Sets what is wanted of `identity`'s `kind`: `quality`, `width` and `height`, `enabled`, `subscribed`."""
        publication = self._remote(command["identity"], command.get("kind", "video"))
        handle = publication._ffi_handle.handle
        if "quality" in command:
            publication.set_video_quality(QUALITIES[command["quality"]])
        if "subscribed" in command:
            publication.set_subscribed(command["subscribed"])
        if "width" in command or "enabled" in command:
            request = ffi_pb2.FfiRequest()
            if "enabled" in command:
                request.enable_remote_track_publication.track_publication_handle = handle
                request.enable_remote_track_publication.enabled = command["enabled"]
            else:
                request.update_remote_track_publication_dimension.track_publication_handle = handle
                request.update_remote_track_publication_dimension.width = command["width"]
                request.update_remote_track_publication_dimension.height = command["height"]
            FfiClient.instance.request(request)
        return {}

    async def stats(self, _command: dict[str, Any]) -> dict[str, Any]:
        """What was received so far, per track, and who is there."""
        tracks = [meter.snapshot() | await receiver_stats(meter.track) for meter in list(self.meters.values())]
        return {"tracks": tracks, "participants": self._identities(), "at_ms": now_ms()}

    async def rpc_serve(self, command: dict[str, Any]) -> dict[str, Any]:
        """Answers calls of `method` with the payload in upper case."""

        async def answer(call: rtc.RpcInvocationData) -> str:
            return call.payload.upper()

        self._joined().local_participant.register_rpc_method(command["method"], answer)
        return {}

    async def rpc_call(self, command: dict[str, Any]) -> dict[str, Any]:
        answer = await self._joined().local_participant.perform_rpc(
            destination_identity=command["to"], method=command["method"], payload=command["payload"]
        )
        return {"answer": answer}

    async def leave(self, _command: dict[str, Any]) -> dict[str, Any]:
        for source in self.sources.values():
            source.stop()
        self.sources.clear()
        self.publications.clear()
        if self.room is not None:
            await self.room.disconnect()
            self.room = None
        for task in list(self.tasks):
            task.cancel()
        self.meters.clear()
        return {}

    def _joined(self) -> rtc.Room:
        if self.room is None:
            raise ValueError("join first")
        return self.room

    def _identities(self) -> list[str]:
        return sorted(self._joined().remote_participants.keys())

    def _remote(self, identity: str, kind: str) -> rtc.RemoteTrackPublication:
        participant = self._joined().remote_participants.get(identity)
        if participant is None:
            raise ValueError(f"{identity} is not in the room")
        for publication in participant.track_publications.values():
            if kind_name(publication.kind) == kind:
                return publication
        raise ValueError(f"{identity} publishes no {kind}")

    def _spawn(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self.tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            emit({"event": "error", "at_ms": now_ms(), "error": repr(task.exception())})

    def _listen(self, room: rtc.Room) -> None:
        def told(name: str, **fields: Any) -> None:
            emit({"event": name, "at_ms": now_ms(), **fields})

        def track_event(name: str) -> Any:
            return lambda who, what: told(name, identity=who.identity, kind=kind_name(what.kind), sid=what.sid)

        def subscribed(track: rtc.Track, publication: rtc.RemoteTrackPublication, who: rtc.RemoteParticipant) -> None:
            kind = kind_name(track.kind)
            meter = (VideoMeter if kind == "video" else AudioMeter)(track, publication.sid, who.identity, told)
            self.meters[publication.sid] = meter
            self._spawn(meter.run())
            told("track_subscribed", identity=who.identity, kind=kind, sid=publication.sid)

        def unsubscribed(_track: rtc.Track, publication: rtc.RemoteTrackPublication, who: rtc.RemoteParticipant) -> None:
            meter = self.meters.pop(publication.sid, None)
            last_ms = meter.last_ms if isinstance(meter, VideoMeter) else None
            told("track_unsubscribed", identity=who.identity, sid=publication.sid, last_ms=last_ms)

        def data(packet: rtc.DataPacket) -> None:
            told(
                "data",
                payload=bytes(packet.data).decode("utf-8", "replace"),
                topic=packet.topic or "",
                identity=packet.participant.identity if packet.participant else None,
            )

        room.on("participant_connected", lambda who: told("participant_connected", identity=who.identity))
        room.on("participant_disconnected", lambda who: told("participant_disconnected", identity=who.identity))
        room.on("track_published", lambda what, who: track_event("track_published")(who, what))
        room.on("track_unpublished", lambda what, who: track_event("track_unpublished")(who, what))
        room.on("track_muted", track_event("track_muted"))
        room.on("track_unmuted", track_event("track_unmuted"))
        room.on("track_subscribed", subscribed)
        room.on("track_unsubscribed", unsubscribed)
        room.on("track_subscription_failed", lambda who, sid, error: told("subscription_failed", identity=who.identity, sid=sid, error=str(error)))
        room.on("data_received", data)
        room.on("active_speakers_changed", lambda who: told("speakers", identities=[one.identity for one in who]))
        room.on("room_metadata_changed", lambda _before, after: told("room_metadata", metadata=after))
        room.on("reconnecting", lambda: told("reconnecting"))
        room.on("reconnected", lambda: told("reconnected"))
        room.on("disconnected", lambda reason: told("disconnected", reason=int(reason)))


async def receiver_stats(track: rtc.Track) -> dict[str, Any]:
    """Of the receiver's own statistics: codec, packets, loss, jitter (ms) and freezes."""
    figures: dict[str, Any] = {}
    try:
        reports = await asyncio.wait_for(track.get_stats(), 2.0)
    except Exception as error:  # a track that has just gone has no statistics; the counts above still stand
        return {"stats_error": str(error)}
    codecs = {report.codec.rtc.id: report.codec.codec.mime_type for report in reports if report.HasField("codec")}
    for report in reports:
        if report.HasField("inbound_rtp"):
            inbound = report.inbound_rtp
            figures = {
                "codec": codecs.get(inbound.stream.codec_id, "").split("/")[-1].lower(),
                "packets": inbound.received.packets_received,
                "lost": inbound.received.packets_lost,
                "jitter_ms": inbound.received.jitter * 1000.0,
                "freezes": inbound.inbound.freeze_count,
                "freeze_s": inbound.inbound.total_freeze_duration,
                "nacks": inbound.inbound.nack_count,
                "plis": inbound.inbound.pli_count,
                "decoded": inbound.inbound.frames_decoded,
                "concealed": inbound.inbound.concealed_samples,
                "samples": inbound.inbound.total_samples_received,
                "bytes": inbound.inbound.bytes_received,
                "rtx": inbound.inbound.retransmitted_packets_received,
            }
    return figures


async def commands() -> asyncio.StreamReader:
    reader = asyncio.StreamReader(limit=4 * 1024 * 1024)
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    return reader


async def serve() -> None:
    client = Client()
    actions = {
        "join": client.join,
        "publish_video": client.publish_video,
        "publish_audio": client.publish_audio,
        "mute": client.mute,
        "unpublish": client.unpublish,
        "send": client.send,
        "settings": client.settings,
        "stats": client.stats,
        "rpc_serve": client.rpc_serve,
        "rpc_call": client.rpc_call,
        "leave": client.leave,
    }
    reader = await commands()
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
