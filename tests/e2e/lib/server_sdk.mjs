import { fileURLToPath } from 'node:url';
import { DataPacket_Kind, RoomServiceClient, WebhookReceiver } from 'livekit-server-sdk';
import { NativeParticipant } from './native.mjs';

const SCRIPT = fileURLToPath(new URL('../server_client.py', import.meta.url));

/** What a call of the server API failed with. */
export class ApiFailed extends Error {
  constructor(message, code) {
    super(message);
    this.code = code;
  }
}

const shown = (answer) => {
  if (Array.isArray(answer)) return answer.map(shown);
  return answer?.toJson ? answer.toJson() : answer;
};

/** Requests in protobuf's JSON form as calls of the JavaScript SDK. */
const CALLS = {
  createRoom: (client, q) => client.createRoom(q),
  listRooms: (client, q) => client.listRooms(q.names),
  deleteRoom: (client, q) => client.deleteRoom(q.room),
  updateRoomMetadata: (client, q) => client.updateRoomMetadata(q.room, q.metadata),
  listParticipants: (client, q) => client.listParticipants(q.room),
  getParticipant: (client, q) => client.getParticipant(q.room, q.identity),
  removeParticipant: (client, { room, identity, revokeTokenTs }) =>
    client.removeParticipant(room, identity, revokeTokenTs && { revokeTokenTs: BigInt(revokeTokenTs) }),
  mutePublishedTrack: (client, q) => client.mutePublishedTrack(q.room, q.identity, q.trackSid, q.muted),
  updateParticipant: (client, { room, identity, ...q }) => client.updateParticipant(room, identity, q),
  updateSubscriptions: (client, q) => client.updateSubscriptions(q.room, q.identity, q.trackSids, q.subscribe),
  sendData: (client, { room, data, kind, ...q }) =>
    client.sendData(room, Buffer.from(data, 'base64'), DataPacket_Kind[kind], q),
  // The SDK has no method for this one yet: its own transport and token then.
  performRpc: async (client, q) =>
    client.rpc.request('RoomService', 'PerformRpc', q, await client.authHeader({ roomAdmin: true, room: q.room })),
  forwardParticipant: (client, q) => client.forwardParticipant(q.room, q.identity, q.destinationRoom),
  moveParticipant: (client, q) => client.moveParticipant(q.room, q.identity, q.destinationRoom),
};

/** The server API by npm's `livekit-server-sdk`. */
export class JavaScriptSdk {
  constructor({ http, credentials: { key, secret } }) {
    this.client = new RoomServiceClient(http, key, secret);
    this.receiver = new WebhookReceiver(key, secret);
  }

  /** Calls a method with its request in protobuf's JSON form, and returns the answer so. */
  async call(method, request = {}) {
    try {
      return shown(await CALLS[method](this.client, request));
    } catch (error) {
      throw new ApiFailed(`${method}: ${error.message}`, error.code);
    }
  }

  async verify(body, authorization) {
    return shown(await this.receiver.receive(body, authorization));
  }
}

const snake = (name) => name.replaceAll(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);

/** The server API by PyPI's `livekit-api`, in a process of its own. */
export class PythonSdk extends NativeParticipant {
  static async open({ http, credentials: { key, secret } }, environment) {
    return this.start('server-sdk', 'none', environment, SCRIPT, [http, key, secret]);
  }

  async call(method, request = {}) {
    const answer = await this.request({ do: snake(method), args: request });
    if (!answer.ok) throw new ApiFailed(`${method}: ${answer.error}`, answer.code);
    return answer.answer;
  }

  async verify(body, authorization) {
    return (await this.act('verify', { body, authorization })).answer;
  }
}
