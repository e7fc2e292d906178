import { useEffect, useState, type ReactNode } from 'react';
import {
  CameraIcon,
  ChatIcon,
  LeaveIcon,
  LinkIcon,
  MicIcon,
  ScreenIcon,
  StatisticsIcon,
} from '../shell/icons';
import { callLinkQuery } from './deep_link';
import { canShareScreen, leaveCall, toggleCamera, toggleMicrophone, toggleScreen } from './session';
import { useCall } from './store';

/** How long "copied" stays, in ms. */
const COPIED_MS = 2000;

interface ControlProps {
  label: string;
  /** The key that does the same, when no text is being typed. */
  shortcut?: string;
  pressed?: boolean;
  tone?: 'plain' | 'off' | 'active' | 'leave';
  badge?: number;
  onClick: () => void;
  children: ReactNode;
}

const TONES = {
  plain: 'bg-raised text-ink hover:bg-line',
  off: 'bg-bad/20 text-bad hover:bg-bad/30',
  active: 'bg-accent text-accent-ink hover:brightness-110',
  leave: 'bg-bad text-bad-ink hover:brightness-110',
};

function Control({ label, shortcut, pressed, tone = 'plain', badge = 0, onClick, children }: ControlProps) {
  return (
    <button
      type="button"
      aria-label={badge > 0 ? `${label}, ${badge} unread` : label}
      aria-pressed={pressed}
      aria-keyshortcuts={shortcut}
      title={shortcut ? `${label} (${shortcut.toUpperCase()})` : label}
      onClick={onClick}
      className={`relative grid size-10 shrink-0 place-items-center rounded-full transition-colors sm:size-12 ${TONES[tone]}`}
    >
      {children}
      {badge > 0 && (
        <span className="absolute -top-0.5 -right-0.5 min-w-5 rounded-full bg-sun px-1 text-center text-xs font-bold text-black">
          {badge > 99 ? '99+' : badge}
        </span>
      )}
    </button>
  );
}

function isTyping(target: EventTarget | null): boolean {
  return (
    target instanceof HTMLElement && target.closest('input, textarea, select, [contenteditable]') !== null
  );
}

/** Single letters do what the buttons do. */
function useShortcuts(actions: Record<string, () => void>): void {
  useEffect(() => {
    const pressed = (event: KeyboardEvent) => {
      if (event.ctrlKey || event.metaKey || event.altKey || event.repeat || isTyping(event.target)) return;
      const action = actions[event.key.toLowerCase()];
      if (!action) return;
      event.preventDefault();
      action();
    };
    addEventListener('keydown', pressed);
    return () => removeEventListener('keydown', pressed);
  }, [actions]);
}

function CopyLink() {
  const room = useCall((state) => state.room);
  const setNotice = useCall((state) => state.setNotice);
  const [copied, setCopied] = useState(false);
  const link = `${location.origin}${location.pathname}${callLinkQuery({ room, region: '' })}`;
  const copy = async () => {
    try {
      await navigator.clipboard.writeText(link);
      setCopied(true);
      setTimeout(() => setCopied(false), COPIED_MS);
    } catch {
      setNotice({ title: 'The link could not be copied', hint: `Copy it yourself: ${link}` });
    }
  };
  return (
    <Control
      label={copied ? 'Link copied' : 'Copy link to this call'}
      tone={copied ? 'active' : 'plain'}
      onClick={() => void copy()}
    >
      <LinkIcon />
    </Control>
  );
}

/** What one can do in the call. */
export function Controls() {
  const { people, chatOpen, setChatOpen, unread, statisticsOpen, setStatisticsOpen } = useCall();
  const self = people.find((person) => person.isLocal);
  const [micOn, cameraOn, sharing] = [
    self?.silent === false,
    self?.camera !== undefined,
    self?.screen !== undefined,
  ];
  const [shortcuts] = useState(() => ({
    m: () => void toggleMicrophone(),
    v: () => void toggleCamera(),
    s: () => void (canShareScreen() && toggleScreen()),
    c: () => setChatOpen(!useCall.getState().chatOpen),
    i: () => setStatisticsOpen(!useCall.getState().statisticsOpen),
  }));
  useShortcuts(shortcuts);
  return (
    <div role="toolbar" aria-label="Call controls" className="flex justify-center gap-2 sm:gap-3">
      <Control
        label={micOn ? 'Mute microphone' : 'Unmute microphone'}
        shortcut="m"
        pressed={micOn}
        tone={micOn ? 'plain' : 'off'}
        onClick={shortcuts.m}
      >
        <MicIcon off={!micOn} />
      </Control>
      <Control
        label={cameraOn ? 'Turn camera off' : 'Turn camera on'}
        shortcut="v"
        pressed={cameraOn}
        tone={cameraOn ? 'plain' : 'off'}
        onClick={shortcuts.v}
      >
        <CameraIcon off={!cameraOn} />
      </Control>
      {canShareScreen() && (
        <Control
          label={sharing ? 'Stop sharing the screen' : 'Share the screen'}
          shortcut="s"
          pressed={sharing}
          tone={sharing ? 'active' : 'plain'}
          onClick={shortcuts.s}
        >
          <ScreenIcon />
        </Control>
      )}
      <Control
        label={chatOpen ? 'Close chat' : 'Open chat'}
        shortcut="c"
        pressed={chatOpen}
        tone={chatOpen ? 'active' : 'plain'}
        badge={unread}
        onClick={shortcuts.c}
      >
        <ChatIcon />
      </Control>
      <Control
        label={statisticsOpen ? 'Hide statistics' : 'Show statistics'}
        shortcut="i"
        pressed={statisticsOpen}
        tone={statisticsOpen ? 'active' : 'plain'}
        onClick={shortcuts.i}
      >
        <StatisticsIcon />
      </Control>
      <CopyLink />
      <Control label="Leave the call" tone="leave" onClick={() => void leaveCall()}>
        <LeaveIcon />
      </Control>
    </div>
  );
}
