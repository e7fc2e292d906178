import { CloseIcon } from '../shell/icons';
import { unblockSound } from './session';
import { useCall } from './store';

function Notice() {
  const { notice, setNotice } = useCall();
  if (!notice) return null;
  return (
    <div
      role="alert"
      className="flex items-start gap-3 rounded-xl border border-bad/50 bg-bad/10 px-4 py-2.5 text-sm"
    >
      <p className="flex-1">
        <strong className="font-semibold">{notice.title}.</strong>{' '}
        <span className="text-soft">{notice.hint}</span>
      </p>
      <button
        type="button"
        aria-label="Dismiss"
        onClick={() => setNotice(undefined)}
        className="rounded p-0.5"
      >
        <CloseIcon />
      </button>
    </div>
  );
}

/** What a person must know now: a lost connection, blocked sound, or something that failed. */
export function Banners() {
  const { reconnecting, soundBlocked } = useCall();
  return (
    <>
      {reconnecting && (
        <p
          role="status"
          className="flex items-center justify-center gap-2 rounded-xl bg-sun px-4 py-2 text-sm font-semibold text-black"
        >
          <span className="size-2.5 animate-pulse rounded-full bg-black" aria-hidden="true" />
          Connection lost. Reconnecting…
        </p>
      )}
      {soundBlocked && (
        <button
          type="button"
          onClick={() => void unblockSound()}
          className="button button-primary py-2 text-sm"
        >
          The browser holds back the sound: play it
        </button>
      )}
      <Notice />
    </>
  );
}
