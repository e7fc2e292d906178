import { useEffect, useState, type FormEvent } from 'react';
import { fetchRegions, type Region } from '../../api/gateway';
import { NAME_MAX, callLinkQuery, makeIdentity, parseCallLink } from '../deep_link';
import { joinCall } from '../session';
import { useCall } from '../store';
import { regionLabel } from '../region';
import { keepVideoSettings, storedVideoSettings } from '../video_settings';
import { Preview } from './Preview';
import { usePreview } from './preview';
import { VideoPicker } from './VideoPicker';

const NAME_KEY = 'antipode.name';

function storedName(): string {
  try {
    return localStorage.getItem(NAME_KEY) ?? '';
  } catch {
    return '';
  }
}

function keepName(name: string): void {
  try {
    localStorage.setItem(NAME_KEY, name);
  } catch {
    // It is typed again next time.
  }
}

/** Opens camera and microphone while the lobby is shown, and closes what no call has taken. */
function usePreviewWhileShown(): void {
  useEffect(() => {
    const { open, wanted } = usePreview.getState();
    if (wanted.camera) void open('camera');
    if (wanted.microphone) void open('microphone');
    return () => {
      const { close, wanted: before } = usePreview.getState();
      close('camera');
      close('microphone');
      usePreview.setState({ wanted: before });
    };
  }, []);
}

function useRegions(): Region[] {
  const [regions, setRegions] = useState<Region[]>([]);
  useEffect(() => {
    let shown = true;
    fetchRegions().then(
      (fetched) => shown && setRegions(fetched),
      () => undefined, // the choice is then left to the mesh, and joining tells what is wrong
    );
    return () => {
      shown = false;
    };
  }, []);
  return regions;
}

function RegionPicker({ region, onPick }: { region: string; onPick: (region: string) => void }) {
  const regions = useRegions();
  const unlisted = region !== '' && !regions.some(({ code }) => code === region);
  return (
    <label className="block">
      <span className="field-label">Region</span>
      <select className="field" value={region} onChange={(event) => onPick(event.target.value)}>
        <option value="">Automatic</option>
        {unlisted && <option value={region}>{regionLabel(region)}</option>}
        {regions.map(({ code, distanceKm }) => (
          <option key={code} value={code}>
            {regionLabel(code)}
            {distanceKm !== undefined && ` · ${distanceKm.toLocaleString('en')} km`}
          </option>
        ))}
      </select>
    </label>
  );
}

function JoinProblem() {
  const problem = useCall((state) => state.problem);
  if (!problem) return null;
  return (
    <p role="alert" className="rounded-xl border border-bad/50 bg-bad/10 px-3.5 py-2.5 text-sm">
      <strong className="block font-semibold">{problem.title}</strong>
      <span className="text-soft">{problem.hint}</span>
    </p>
  );
}

function JoinForm() {
  const link = parseCallLink(location.search);
  const [name, setName] = useState(storedName);
  const [room, setRoom] = useState(link.room);
  const [region, setRegion] = useState(link.region);
  const [video, setVideo] = useState(storedVideoSettings);
  const joining = useCall((state) => state.phase === 'joining');

  const join = (event: FormEvent) => {
    event.preventDefault();
    const wanted = { room: room.trim(), name: name.trim(), region };
    if (joining || wanted.room === '' || wanted.name === '') return;
    keepName(wanted.name);
    keepVideoSettings(video);
    history.replaceState(null, '', location.pathname + callLinkQuery(wanted));
    const { take, picked } = usePreview.getState();
    const devices = { cameraId: picked.camera, microphoneId: picked.microphone, video };
    void joinCall({ ...wanted, identity: makeIdentity(wanted.name) }, take, devices);
  };

  return (
    <form onSubmit={join} className="flex flex-col gap-4">
      <label className="block">
        <span className="field-label">Your name</span>
        <input
          className="field"
          value={name}
          onChange={(event) => setName(event.target.value)}
          maxLength={NAME_MAX}
          autoComplete="name"
          placeholder="Ada"
          required
          autoFocus
        />
      </label>
      <label className="block">
        <span className="field-label">Room</span>
        <input
          className="field"
          value={room}
          onChange={(event) => setRoom(event.target.value)}
          maxLength={NAME_MAX}
          autoComplete="off"
          placeholder="weekly-sync"
          required
        />
      </label>
      <RegionPicker region={region} onPick={setRegion} />
      <VideoPicker settings={video} onPick={setVideo} />
      <JoinProblem />
      <button type="submit" disabled={joining} className="button button-primary mt-1">
        {joining ? 'Joining…' : 'Join the call'}
      </button>
    </form>
  );
}

/** Before the call: who, where, and with which devices. */
export function Lobby() {
  usePreviewWhileShown();
  return (
    <main className="flex flex-1 overflow-y-auto px-4 pb-8">
      <div className="m-auto grid w-full max-w-5xl gap-8 lg:grid-cols-[1.5fr_1fr] lg:items-center">
        <Preview />
        <section aria-labelledby="join-title" className="rounded-2xl border border-line bg-panel p-6">
          <h1 id="join-title" className="text-2xl font-bold tracking-tight">
            Join a call
          </h1>
          <p className="mt-1 mb-6 text-soft">
            Everyone connects to an edge nearby; the mesh brings you together.
          </p>
          <JoinForm />
        </section>
      </div>
    </main>
  );
}
