import type { Track } from 'livekit-client';
import { useEffect, useRef } from 'react';

interface Props {
  track: Track;
  /** Shown as in a mirror: one's own camera. */
  mirrored?: boolean;
  /** The whole picture is shown, with bars if need be: a shared screen. */
  whole?: boolean;
}

/** Plays a video track. */
export function VideoView({ track, mirrored = false, whole = false }: Props) {
  const ref = useRef<HTMLVideoElement>(null);
  useEffect(() => {
    const element = ref.current;
    if (!element) return;
    track.attach(element);
    return () => {
      track.detach(element);
    };
  }, [track]);
  return (
    <video
      ref={ref}
      muted
      playsInline
      autoPlay
      className={`size-full ${whole ? 'object-contain' : 'object-cover'} ${mirrored ? '-scale-x-100' : ''}`}
    />
  );
}
