import { ConnectionQuality, Track, type Participant, type Room } from 'livekit-client';

/** A participant as the page shows them. */
export interface Person {
  identity: string;
  name: string;
  isLocal: boolean;
  speaking: boolean;
  /** No microphone published, or a muted one. */
  silent: boolean;
  quality: ConnectionQuality;
  /** Present while it is published, subscribed and not muted. */
  camera: Track | undefined;
  screen: Track | undefined;
  /** Sources whose video is held back, as the path to here has no room for it. */
  paused: Track.Source[];
}

function visibleTrack(participant: Participant, source: Track.Source): Track | undefined {
  const publication = participant.getTrackPublication(source);
  return publication && !publication.isMuted ? publication.track : undefined;
}

function isPaused(participant: Participant, source: Track.Source): boolean {
  return visibleTrack(participant, source)?.streamState === Track.StreamState.Paused;
}

function personOf(participant: Participant): Person {
  const microphone = participant.getTrackPublication(Track.Source.Microphone);
  return {
    identity: participant.identity,
    name: participant.name || participant.identity,
    isLocal: participant.isLocal,
    speaking: participant.isSpeaking,
    silent: microphone === undefined || microphone.isMuted,
    quality: participant.connectionQuality,
    camera: visibleTrack(participant, Track.Source.Camera),
    screen: visibleTrack(participant, Track.Source.ScreenShare),
    paused: [Track.Source.Camera, Track.Source.ScreenShare].filter((source) => isPaused(participant, source)),
  };
}

/** Everyone in the room, oneself first, the others in the order they joined. */
export function peopleOf(room: Room): Person[] {
  const others = [...room.remoteParticipants.values()].sort(
    (a, b) =>
      (a.joinedAt?.getTime() ?? 0) - (b.joinedAt?.getTime() ?? 0) || a.identity.localeCompare(b.identity),
  );
  return [room.localParticipant, ...others].map(personOf);
}

/** Up to two letters that stand for a name. */
export function initials(name: string): string {
  const words = name.split(/[\s\-_.]+/).filter((word) => word !== '');
  const [first, second] = words;
  const letters = [first, second].map((word) => (word ? ([...word][0] ?? '') : '')).join('');
  return letters.toUpperCase() || '?';
}

/** A hue (degrees) that stays the same for an identity. */
export function hueOf(identity: string): number {
  let hash = 0;
  for (const letter of identity) hash = (hash * 31 + (letter.codePointAt(0) ?? 0)) % 360;
  return hash;
}
