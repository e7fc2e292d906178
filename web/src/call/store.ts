import { create } from 'zustand';
import type { Problem } from '../api/errors';
import type { Attribution } from '../api/gateway';
import { MESSAGES_MAX, type Message } from './chat';
import type { Person } from './people';

/** Where a person is with the call: before it, on the way, in it, or after it. */
export type Phase = 'lobby' | 'joining' | 'live' | 'ended';

/** What the call page shows. */
export interface CallState {
  phase: Phase;
  room: string;
  /** Region of the edge that serves this call, when known. */
  region: string | undefined;
  /** Whose data told where this client is. */
  attribution: Attribution | undefined;
  people: Person[];
  /** The connection was lost and is being taken up again. */
  reconnecting: boolean;
  /** The browser waits for a click before it plays sound. */
  soundBlocked: boolean;
  /** Why joining failed or the call ended; undefined when the person left. */
  problem: Problem | undefined;
  /** Something within the call that did not work, until it is dismissed. */
  notice: Problem | undefined;
  messages: Message[];
  unread: number;
  chatOpen: boolean;
  /** Each picture shows its statistics. */
  statisticsOpen: boolean;
}

interface CallActions {
  startJoining: (room: string) => void;
  joined: (region: string | undefined, attribution?: Attribution) => void;
  ended: (problem?: Problem) => void;
  backToLobby: () => void;
  showPeople: (people: Person[]) => void;
  setReconnecting: (reconnecting: boolean) => void;
  setSoundBlocked: (soundBlocked: boolean) => void;
  setNotice: (notice: Problem | undefined) => void;
  addMessage: (message: Omit<Message, 'id'>) => void;
  setChatOpen: (open: boolean) => void;
  setStatisticsOpen: (open: boolean) => void;
}

const NOTHING: CallState = {
  phase: 'lobby',
  room: '',
  region: undefined,
  attribution: undefined,
  people: [],
  reconnecting: false,
  soundBlocked: false,
  problem: undefined,
  notice: undefined,
  messages: [],
  unread: 0,
  chatOpen: false,
  statisticsOpen: false,
};

let nextMessage = 1;

/** The state of the one call of this page. Only the session writes what comes from the room. */
export const useCall = create<CallState & CallActions>((set) => ({
  ...NOTHING,
  startJoining: (room) => set({ ...NOTHING, phase: 'joining', room }),
  joined: (region, attribution) => set({ phase: 'live', region, attribution, problem: undefined }),
  ended: (problem) =>
    set((state) => ({
      ...NOTHING,
      room: state.room,
      phase: state.phase === 'live' ? 'ended' : 'lobby',
      problem,
    })),
  backToLobby: () => set((state) => ({ ...NOTHING, room: state.room })),
  showPeople: (people) => set({ people }),
  setReconnecting: (reconnecting) => set({ reconnecting }),
  setSoundBlocked: (soundBlocked) => set({ soundBlocked }),
  setNotice: (notice) => set({ notice }),
  addMessage: (message) =>
    set((state) => ({
      messages: [...state.messages, { ...message, id: nextMessage++ }].slice(-MESSAGES_MAX),
      unread: state.chatOpen || message.own ? state.unread : state.unread + 1,
    })),
  setChatOpen: (chatOpen) => set((state) => ({ chatOpen, unread: chatOpen ? 0 : state.unread })),
  setStatisticsOpen: (statisticsOpen) => set({ statisticsOpen }),
}));
