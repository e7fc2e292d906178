import { Banners } from './Banners';
import { Chat } from './Chat';
import { Controls } from './Controls';
import { Stage } from './Stage';
import { regionLabel } from './region';
import { useCall } from './store';

function Title() {
  const { room, region, attribution, people } = useCall();
  return (
    <div className="flex items-baseline gap-3 px-1 text-sm text-soft">
      <h1 className="truncate font-semibold text-ink">{room}</h1>
      <span className="shrink-0">
        {people.length} {people.length === 1 ? 'person' : 'people'}
      </span>
      {region !== undefined && <span className="truncate">via {regionLabel(region)}</span>}
      {attribution !== undefined && (
        <a className="ml-auto truncate text-xs underline" href={attribution.url} target="_blank" rel="noreferrer">
          {attribution.text}
        </a>
      )}
    </div>
  );
}

/** The call itself. */
export function CallScreen() {
  const chatOpen = useCall((state) => state.chatOpen);
  return (
    <main className="flex min-h-0 flex-1 flex-col gap-3 px-3 pb-3">
      <Title />
      <Banners />
      <div className="flex min-h-0 flex-1 gap-3">
        <Stage />
        {chatOpen && <Chat />}
      </div>
      <Controls />
    </main>
  );
}
