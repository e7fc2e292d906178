import type { ReactNode } from 'react';

/** One line drawing of 24 × 24; decoration only, the label is on what holds it. */
function Drawing({ children }: { children: ReactNode }) {
  return (
    <svg
      viewBox="0 0 24 24"
      className="size-5 shrink-0"
      fill="none"
      stroke="currentColor"
      strokeWidth="1.8"
      strokeLinecap="round"
      strokeLinejoin="round"
      aria-hidden="true"
    >
      {children}
    </svg>
  );
}

const SLASH = <path d="M4 4l16 16" />;

export function MicIcon({ off = false }: { off?: boolean }) {
  return (
    <Drawing>
      <rect x="9" y="3" width="6" height="11" rx="3" />
      <path d="M5.5 11.5a6.5 6.5 0 0 0 13 0M12 18v3" />
      {off && SLASH}
    </Drawing>
  );
}

export function CameraIcon({ off = false }: { off?: boolean }) {
  return (
    <Drawing>
      <rect x="3" y="6.5" width="12" height="11" rx="2.5" />
      <path d="M15 10.8l5-3v8.4l-5-3" />
      {off && SLASH}
    </Drawing>
  );
}

export function ScreenIcon() {
  return (
    <Drawing>
      <rect x="3" y="4.5" width="18" height="12" rx="2" />
      <path d="M9 20h6M12 13.5V8m-2.5 2.3L12 7.8l2.5 2.5" />
    </Drawing>
  );
}

export function ChatIcon() {
  return (
    <Drawing>
      <path d="M4 5.5h16v11H10l-4.5 3.5v-3.5H4z" />
    </Drawing>
  );
}

export function StatisticsIcon() {
  return (
    <Drawing>
      <path d="M4 20h16M7 16v-4M12 16V6M17 16v-7" />
    </Drawing>
  );
}

export function LeaveIcon() {
  return (
    <Drawing>
      <path d="M3.5 14.5c5-4.7 12-4.7 17 0l-2 2.3-3.8-1.6v-2.6a11 11 0 0 0-5.4 0v2.6l-3.8 1.6z" />
    </Drawing>
  );
}

export function LinkIcon() {
  return (
    <Drawing>
      <path d="M10 14a4 4 0 0 0 5.7 0l3-3A4 4 0 1 0 13 5.3l-1 1M14 10a4 4 0 0 0-5.7 0l-3 3A4 4 0 1 0 11 18.7l1-1" />
    </Drawing>
  );
}

export function SunIcon() {
  return (
    <Drawing>
      <circle cx="12" cy="12" r="4" />
      <path d="M12 3v2M12 19v2M3 12h2M19 12h2M5.6 5.6l1.5 1.5M16.9 16.9l1.5 1.5M5.6 18.4l1.5-1.5M16.9 7.1l1.5-1.5" />
    </Drawing>
  );
}

export function MoonIcon() {
  return (
    <Drawing>
      <path d="M19.5 14.5A8 8 0 0 1 9.5 4.5a8 8 0 1 0 10 10z" />
    </Drawing>
  );
}

export function CloseIcon() {
  return (
    <Drawing>
      <path d="M6 6l12 12M18 6L6 18" />
    </Drawing>
  );
}

export function SendIcon() {
  return (
    <Drawing>
      <path d="M4 12l16-7-5 15-3.5-6.5z" />
    </Drawing>
  );
}

/** The sign of the mesh: two people on opposite sides of one globe, day and night. */
export function Logo() {
  return (
    <svg viewBox="0 0 32 32" className="size-7 shrink-0" aria-hidden="true">
      <circle cx="16" cy="16" r="14" fill="#7c8cff" />
      <path d="M26 6.2A14 14 0 0 1 6.2 26Z" fill="#ffb454" />
      <circle cx="10.5" cy="10.5" r="3" fill="#0b0e17" />
      <circle cx="21.5" cy="21.5" r="3" fill="#0b0e17" />
    </svg>
  );
}
