"""Drives the server API with the public Python SDK: one JSON command per line on stdin, one answer per line on stdout.

`{"id", "do": "create_room", "args": {…}}` calls the method of that name of `livekit.api`'s room service with the request message
whose fields are `args` (in the JSON form of protobuf); `verify` has the SDK's webhook receiver read a request.
"""

import asyncio
import json
import sys
from typing import Any

from google.protobuf import json_format
from livekit import api
from livekit.protocol.room import PerformRpcRequest, PerformRpcResponse

REQUESTS = {
    "create_room": api.CreateRoomRequest,
    "list_rooms": api.ListRoomsRequest,
    "delete_room": api.DeleteRoomRequest,
    "update_room_metadata": api.UpdateRoomMetadataRequest,
    "list_participants": api.ListParticipantsRequest,
    "get_participant": api.RoomParticipantIdentity,
    "remove_participant": api.RoomParticipantIdentity,
    "mute_published_track": api.MuteRoomTrackRequest,
    "update_participant": api.UpdateParticipantRequest,
    "update_subscriptions": api.UpdateSubscriptionsRequest,
    "send_data": api.SendDataRequest,
    "forward_participant": api.ForwardParticipantRequest,
    "move_participant": api.MoveParticipantRequest,
    "perform_rpc": PerformRpcRequest,
}


def emit(message: dict[str, Any]) -> None:
    print(json.dumps(message), flush=True)


def shown(answer: Any) -> Any:
    """An answer as JSON: messages in protobuf's JSON form, what the SDK unpacks as it is."""
    if answer is None or isinstance(answer, (str, int, float, bool)):
        return answer
    if isinstance(answer, (list, tuple)):
        return [shown(one) for one in answer]
    return json_format.MessageToDict(answer)


async def call(client: api.LiveKitAPI, command: dict[str, Any]) -> dict[str, Any]:
    request = json_format.ParseDict(command["args"], REQUESTS[command["do"]]())
    if command["do"] == "perform_rpc":
        # The SDK has no method for this one yet: its own transport and token then.
        grants = api.VideoGrants(room_admin=True, room=request.room)
        header = client.room._auth_header(grants)
        answer = await client.room._client.request("RoomService", "PerformRpc", request, header, PerformRpcResponse)
    else:
        answer = await getattr(client.room, command["do"])(request)
    return {"answer": shown(answer)}


def verify(receiver: api.WebhookReceiver, command: dict[str, Any]) -> dict[str, Any]:
    return {"answer": shown(receiver.receive(command["body"], command["authorization"]))}


def failure(error: Exception) -> dict[str, Any]:
    return {"ok": False, "error": f"{type(error).__name__}: {error}", "code": getattr(error, "code", None)}


async def serve(url: str, key: str, secret: str) -> None:
    reader = asyncio.StreamReader(limit=4 * 1024 * 1024)
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    receiver = api.WebhookReceiver(api.TokenVerifier(key, secret))
    async with api.LiveKitAPI(url, key, secret) as client:
        emit({"event": "ready", "at_ms": 0})
        while line := await reader.readline():
            command = json.loads(line)
            try:
                answer = verify(receiver, command) if command["do"] == "verify" else await call(client, command)
                emit({"id": command["id"], "ok": True, **answer})
            except Exception as error:
                emit({"id": command["id"], **failure(error)})


if __name__ == "__main__":
    asyncio.run(serve(*sys.argv[1:4]))
