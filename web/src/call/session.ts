import {
  DisconnectReason,
  Room,
  RoomEvent,
  Track,
  type LocalTrack,
  type RemoteParticipant,
  type RemoteTrack,
} from 'livekit-client';
import { fetchJoinGrant, type JoinRequest } from '../api/gateway';
import { describeJoinError, describeMediaError, type Problem } from '../api/errors';
import { CHAT_TOPIC, decodeChat, encodeChat } from './chat';
import { peopleOf } from './people';
import { useCall } from './store';
import type { VideoSettings } from './video_settings';

/** Devices to use when something is switched on within the call. */
export interface Devices {
  cameraId: string | undefined;
  microphoneId: string | undefined;
  video: VideoSettings;
}

const ENDINGS: Partial<Record<DisconnectReason, Problem>> = {
  [DisconnectReason.DUPLICATE_IDENTITY]: {
    title: 'You joined from somewhere else',
    hint: 'This page has left the call, as the same identity joined again. Rejoin to take it back here.',
  },
  [DisconnectReason.PARTICIPANT_REMOVED]: {
    title: 'You were removed from the call',
    hint: 'Ask the host before you rejoin.',
  },
  [DisconnectReason.ROOM_DELETED]: { title: 'The room was closed', hint: 'Rejoining opens it anew.' },
  [DisconnectReason.SERVER_SHUTDOWN]: {
    title: 'The edge was shut down',
    hint: 'Rejoin: another edge will take the call.',
  },
};

/** Why a call ended, or undefined when the person left. */
export function describeEnding(reason: DisconnectReason | undefined): Problem | undefined {
  if (reason === DisconnectReason.CLIENT_INITIATED) return undefined;
  const known = reason === undefined ? undefined : ENDINGS[reason];
  return known ?? { title: 'The connection was lost', hint: 'Check your network connection, then rejoin.' };
}

/** What may change what is shown of people. */
const PEOPLE_EVENTS = [
  RoomEvent.ParticipantConnected,
  RoomEvent.ParticipantDisconnected,
  RoomEvent.ParticipantNameChanged,
  RoomEvent.TrackPublished,
  RoomEvent.TrackUnpublished,
  RoomEvent.TrackSubscribed,
  RoomEvent.TrackUnsubscribed,
  RoomEvent.TrackMuted,
  RoomEvent.TrackUnmuted,
  RoomEvent.LocalTrackPublished,
  RoomEvent.LocalTrackUnpublished,
  RoomEvent.ActiveSpeakersChanged,
  RoomEvent.ConnectionQualityChanged,
  RoomEvent.TrackStreamStateChanged,
  RoomEvent.Reconnected,
] as const;

let current: Room | undefined;

function playSound(track: RemoteTrack): void {
  if (track.kind !== Track.Kind.Audio) return;
  const element = track.attach();
  element.hidden = true;
  document.body.append(element);
}

function stopTrack(track: RemoteTrack): void {
  for (const element of track.detach()) {
    if (track.kind === Track.Kind.Audio) element.remove();
  }
}

function receiveData(
  payload: Uint8Array,
  from: RemoteParticipant | undefined,
  topic: string | undefined,
): void {
  const text = topic === CHAT_TOPIC ? decodeChat(payload) : undefined;
  if (text === undefined) return;
  const name = from?.name || from?.identity || 'Somebody';
  useCall.getState().addMessage({ from: name, own: false, text, at: Date.now() });
}

function listen(room: Room): void {
  const call = useCall.getState();
  const showPeople = () => {
    if (room === current) call.showPeople(peopleOf(room));
  };
  for (const event of PEOPLE_EVENTS) room.on(event, showPeople);
  room
    .on(RoomEvent.TrackSubscribed, playSound)
    .on(RoomEvent.TrackUnsubscribed, stopTrack)
    .on(RoomEvent.DataReceived, (payload, from, _kind, topic) => receiveData(payload, from, topic))
    .on(RoomEvent.AudioPlaybackStatusChanged, () => call.setSoundBlocked(!room.canPlaybackAudio))
    .on(RoomEvent.SignalReconnecting, () => call.setReconnecting(true))
    .on(RoomEvent.Reconnecting, () => call.setReconnecting(true))
    .on(RoomEvent.Reconnected, () => call.setReconnecting(false))
    .on(RoomEvent.Disconnected, (reason) => {
      if (room !== current) return;
      current = undefined;
      call.ended(describeEnding(reason));
    });
}

/** Joins a call. Once connected, `takeTracks` hands over what the lobby has opened, and the call owns it. */
export async function joinCall(
  request: JoinRequest,
  takeTracks: () => LocalTrack[],
  devices: Devices,
): Promise<void> {
  const call = useCall.getState();
  call.startJoining(request.room);
  const room = new Room({
    adaptiveStream: true,
    dynacast: true,
    videoCaptureDefaults: { deviceId: devices.cameraId },
    audioCaptureDefaults: { deviceId: devices.microphoneId },
    // Whoever cannot decode the chosen codec gets VP8.
    publishDefaults: {
      videoCodec: devices.video.codec,
      simulcast: devices.video.simulcast,
      backupCodec: true,
    },
  });
  let tracks: LocalTrack[];
  try {
    const grant = await fetchJoinGrant(request);
    listen(room);
    await room.connect(grant.serverUrl, grant.token);
    current = room;
    tracks = takeTracks();
    call.joined(grant.region ?? (request.region || undefined), grant.attribution);
    call.showPeople(peopleOf(room));
    call.setSoundBlocked(!room.canPlaybackAudio);
  } catch (error) {
    await room.disconnect();
    call.ended(describeJoinError(error));
    return;
  }
  for (const track of tracks) {
    await room.localParticipant.publishTrack(track).catch((error: unknown) => {
      track.stop();
      if (room === current) call.setNotice(describePublishError(track.kind, error));
    });
  }
}

function describePublishError(kind: Track.Kind, error: unknown): Problem {
  const what = kind === Track.Kind.Audio ? 'microphone' : 'camera';
  const reason = error instanceof Error ? error.message : String(error);
  return { title: `Your ${what} could not be shared`, hint: `Switch it off and on again. (${reason})` };
}

/** Leaves the call. */
export async function leaveCall(): Promise<void> {
  await current?.disconnect();
}

async function switchDevice(change: (room: Room) => Promise<unknown>): Promise<void> {
  const room = current;
  if (!room) return;
  const call = useCall.getState();
  try {
    await change(room);
    call.setNotice(undefined);
  } catch (error) {
    call.setNotice(describeMediaError(error));
  }
  if (room === current) call.showPeople(peopleOf(room));
}

/** Mutes or unmutes one's own microphone. */
export function toggleMicrophone(): Promise<void> {
  return switchDevice((room) =>
    room.localParticipant.setMicrophoneEnabled(!room.localParticipant.isMicrophoneEnabled),
  );
}

/** Switches one's own camera. */
export function toggleCamera(): Promise<void> {
  return switchDevice((room) =>
    room.localParticipant.setCameraEnabled(!room.localParticipant.isCameraEnabled),
  );
}

/** True where the browser can share a screen (phones mostly cannot). */
export function canShareScreen(): boolean {
  return typeof navigator.mediaDevices?.getDisplayMedia === 'function';
}

/** Starts or ends sharing the screen. A person who closes the browser's own dialogue has changed nothing. */
export function toggleScreen(): Promise<void> {
  return switchDevice(async (room) => {
    const sharing = room.localParticipant.isScreenShareEnabled;
    try {
      await room.localParticipant.setScreenShareEnabled(!sharing, { audio: true });
    } catch (error) {
      if (!(error instanceof Error && error.name === 'NotAllowedError')) throw error;
    }
  });
}

/** Plays sound after the click that the browser waits for. */
export async function unblockSound(): Promise<void> {
  await current?.startAudio();
}

/** Sends a text to everyone in the room; false when it could not be sent. */
export async function sendChat(text: string): Promise<boolean> {
  const room = current;
  const trimmed = text.trim();
  if (!room || trimmed === '') return false;
  const call = useCall.getState();
  try {
    await room.localParticipant.publishData(encodeChat(trimmed), { reliable: true, topic: CHAT_TOPIC });
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    call.setNotice({ title: 'Your message was not sent', hint: `Send it again in a moment. (${reason})` });
    return false;
  }
  const from = room.localParticipant.name || room.localParticipant.identity;
  call.addMessage({ from, own: true, text: trimmed, at: Date.now() });
  return true;
}
