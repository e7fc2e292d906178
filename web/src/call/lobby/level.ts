import { createAudioAnalyser, type LocalAudioTrack } from 'livekit-client';
import { useEffect, useState } from 'react';

/** How often the level is read, in ms. */
const PERIOD_MS = 80;

/** How loud a microphone is right now, 0 to 1. */
export function useLevel(track: LocalAudioTrack | undefined): number {
  const [level, setLevel] = useState(0);
  useEffect(() => {
    if (!track) return;
    const { calculateVolume, cleanup } = createAudioAnalyser(track, { smoothingTimeConstant: 0.6 });
    const timer = setInterval(() => setLevel(Math.min(1, calculateVolume() * 1.6)), PERIOD_MS);
    return () => {
      clearInterval(timer);
      setLevel(0);
      void cleanup();
    };
  }, [track]);
  return level;
}
