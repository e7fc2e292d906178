import { Room, createLocalAudioTrack, createLocalVideoTrack } from 'livekit-client';
import type { LocalAudioTrack, LocalTrack, LocalVideoTrack } from 'livekit-client';
import { create } from 'zustand';
import { describeMediaError, type Problem } from '../../api/errors';

/** What can be previewed. */
export type Kind = 'camera' | 'microphone';

interface PreviewState {
  camera: LocalVideoTrack | undefined;
  microphone: LocalAudioTrack | undefined;
  /** What the person wants on; the tracks follow. */
  wanted: Record<Kind, boolean>;
  problems: Partial<Record<Kind, Problem>>;
  devices: Record<Kind, MediaDeviceInfo[]>;
  picked: Partial<Record<Kind, string>>;
}

interface PreviewActions {
  open: (kind: Kind) => Promise<void>;
  close: (kind: Kind) => void;
  pick: (kind: Kind, deviceId: string) => Promise<void>;
  /** Hands the open tracks over; the preview forgets them without stopping them. */
  take: () => LocalTrack[];
}

const INSECURE: Problem = {
  title: 'Camera and microphone need a secure address',
  hint: 'Open this page over https, or as localhost on this machine. You can join without them.',
};
const DEVICE_KINDS = { camera: 'videoinput', microphone: 'audioinput' } as const;

/** Counts openings of each kind, so that one overtaken by a later choice is dropped when it completes. */
const generations: Record<Kind, number> = { camera: 0, microphone: 0 };

function openTrack(kind: Kind, deviceId: string | undefined): Promise<LocalVideoTrack | LocalAudioTrack> {
  const picked = deviceId === undefined ? {} : { deviceId: { exact: deviceId } };
  return kind === 'camera'
    ? createLocalVideoTrack({ ...picked, resolution: { width: 1280, height: 720, frameRate: 30 } })
    : createLocalAudioTrack({ ...picked, echoCancellation: true, noiseSuppression: true });
}

/** Camera and microphone before the call. */
export const usePreview = create<PreviewState & PreviewActions>((set, get) => ({
  camera: undefined,
  microphone: undefined,
  wanted: { camera: true, microphone: true },
  problems: {},
  devices: { camera: [], microphone: [] },
  picked: {},

  open: async (kind) => {
    get().close(kind);
    const generation = ++generations[kind];
    set((state) => ({
      wanted: { ...state.wanted, [kind]: true },
      problems: { ...state.problems, [kind]: undefined },
    }));
    if (!navigator.mediaDevices) {
      set((state) => ({ problems: { ...state.problems, [kind]: INSECURE } }));
      return;
    }
    try {
      const track = await openTrack(kind, get().picked[kind]);
      if (generation !== generations[kind]) {
        track.stop();
        return;
      }
      const devices = await Room.getLocalDevices(DEVICE_KINDS[kind], false);
      set((state) => ({ [kind]: track, devices: { ...state.devices, [kind]: devices } }));
    } catch (error) {
      if (generation !== generations[kind]) return;
      set((state) => ({ problems: { ...state.problems, [kind]: describeMediaError(error) } }));
    }
  },

  close: (kind) => {
    generations[kind] += 1;
    get()[kind]?.stop();
    set((state) => ({ [kind]: undefined, wanted: { ...state.wanted, [kind]: false } }));
  },

  pick: (kind, deviceId) => {
    set((state) => ({ picked: { ...state.picked, [kind]: deviceId } }));
    return get().open(kind);
  },

  take: () => {
    const { camera, microphone } = get();
    generations.camera += 1;
    generations.microphone += 1;
    set({ camera: undefined, microphone: undefined });
    return [microphone, camera].filter((track) => track !== undefined);
  },
}));
