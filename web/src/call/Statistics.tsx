import type { Track } from 'livekit-client';
import { useFigures } from './statistics';

/** What one picture costs and what is lost of it, over its corner. */
export function Statistics({ track }: { track: Track }) {
  const figures = useFigures(track);
  if (!figures) return null;
  const { codec, size, fps, kbps, lossPercent } = figures;
  const rows = [
    ['codec', codec],
    ['size', size],
    ['frames', `${fps}/s`],
    ['rate', `${kbps.toLocaleString('en')} kbit/s`],
    ['loss', `${lossPercent.toFixed(1)} %`],
  ];
  return (
    <dl
      aria-label="Statistics"
      className="absolute top-2 right-2 grid grid-cols-[auto_auto] gap-x-3 rounded-lg bg-black/60 px-2.5 py-1.5 font-mono text-xs text-white"
    >
      {rows.map(([name, value]) => (
        <div key={name} className="contents">
          <dt className="text-white/60">{name}</dt>
          <dd className="text-right">{value}</dd>
        </div>
      ))}
    </dl>
  );
}
