import { ConnectionQuality, Track } from 'livekit-client';
import { MicIcon, ScreenIcon } from '../shell/icons';
import { hueOf, initials, type Person } from './people';
import { Statistics } from './Statistics';
import { useCall } from './store';
import { VideoView } from './VideoView';

const QUALITIES: Record<ConnectionQuality, { bars: number; label: string; colour: string }> = {
  [ConnectionQuality.Excellent]: { bars: 3, label: 'excellent connection', colour: 'bg-good' },
  [ConnectionQuality.Good]: { bars: 2, label: 'good connection', colour: 'bg-good' },
  [ConnectionQuality.Poor]: { bars: 1, label: 'poor connection', colour: 'bg-sun' },
  [ConnectionQuality.Lost]: { bars: 0, label: 'connection lost', colour: 'bg-bad' },
  [ConnectionQuality.Unknown]: { bars: 0, label: 'connection not yet known', colour: 'bg-soft' },
};
const BAR_HEIGHTS = ['h-1.5', 'h-2.5', 'h-3.5'];

function Quality({ quality }: { quality: ConnectionQuality }) {
  const { bars, label, colour } = QUALITIES[quality];
  return (
    <span role="img" aria-label={label} title={label} className="flex items-end gap-0.5">
      {BAR_HEIGHTS.map((height, index) => (
        <span key={height} className={`w-1 rounded-sm ${height} ${index < bars ? colour : 'bg-white/30'}`} />
      ))}
    </span>
  );
}

function Face({ person }: { person: Person }) {
  const hue = hueOf(person.identity);
  return (
    <div className="grid size-full place-items-center">
      <span
        className="grid aspect-square h-2/5 max-h-32 min-h-12 place-items-center rounded-full text-xl font-bold text-white sm:text-3xl"
        style={{ background: `linear-gradient(135deg, hsl(${hue} 60% 48%), hsl(${hue + 50} 60% 34%))` }}
        aria-hidden="true"
      >
        {initials(person.name)}
      </span>
    </div>
  );
}

/** Over a picture that stands still because the network has no room for it. */
function Paused() {
  return (
    <div role="status" className="absolute inset-0 grid place-items-center bg-black/50 text-white">
      <span className="rounded-lg bg-black/60 px-3 py-1.5 text-sm">paused: network</span>
    </div>
  );
}

/** One person, or the screen they share. A ring tells who speaks. */
export function Tile({ person, showScreen = false }: { person: Person; showScreen?: boolean }) {
  const track = showScreen ? person.screen : person.camera;
  const paused = person.paused.includes(showScreen ? Track.Source.ScreenShare : Track.Source.Camera);
  const statisticsOpen = useCall((call) => call.statisticsOpen);
  const name = person.isLocal ? `${person.name} (you)` : person.name;
  const state = showScreen
    ? 'shares the screen'
    : person.silent
      ? 'muted'
      : person.speaking
        ? 'speaking'
        : 'listening';
  const ring = person.speaking && !showScreen ? 'ring-3 ring-good' : 'ring-1 ring-line';
  return (
    <li
      aria-label={`${name}, ${state}`}
      data-identity={person.identity}
      className={`relative size-full min-h-0 overflow-hidden rounded-2xl bg-panel transition-shadow ${ring}`}
    >
      {track ? (
        <VideoView track={track} whole={showScreen} mirrored={person.isLocal && !showScreen} />
      ) : (
        <Face person={person} />
      )}
      {paused && <Paused />}
      {track && statisticsOpen && <Statistics track={track} />}
      <div className="absolute bottom-2 left-2 flex max-w-[calc(100%-1rem)] items-center gap-2 rounded-lg bg-black/60 px-2.5 py-1 text-sm text-white">
        {showScreen && <ScreenIcon />}
        {!showScreen && person.silent && (
          <span className="text-[#ff8a98] [&_svg]:size-4">
            <MicIcon off />
          </span>
        )}
        <span className="truncate">{name}</span>
        {!showScreen && <Quality quality={person.quality} />}
      </div>
    </li>
  );
}
