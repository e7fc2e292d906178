import type { Problem } from '../../api/errors';
import { CameraIcon, MicIcon } from '../../shell/icons';
import { VideoView } from '../VideoView';
import { useLevel } from './level';
import { usePreview, type Kind } from './preview';

const LABELS = { camera: 'Camera', microphone: 'Microphone' } as const;

function Switch({ kind }: { kind: Kind }) {
  const { wanted, open, close } = usePreview();
  const on = wanted[kind];
  const label = `${on ? 'Turn off' : 'Turn on'} ${LABELS[kind].toLowerCase()}`;
  return (
    <button
      type="button"
      aria-pressed={on}
      aria-label={label}
      title={label}
      onClick={() => (on ? close(kind) : void open(kind))}
      className={`rounded-full p-3 ${on ? 'bg-black/55 text-white hover:bg-black/75' : 'bg-bad text-bad-ink'}`}
    >
      {kind === 'camera' ? <CameraIcon off={!on} /> : <MicIcon off={!on} />}
    </button>
  );
}

function DevicePicker({ kind }: { kind: Kind }) {
  const { devices, picked, pick, wanted } = usePreview();
  const list = devices[kind];
  return (
    <label className="min-w-0 flex-1">
      <span className="field-label">{LABELS[kind]}</span>
      <select
        className="field truncate"
        value={picked[kind] ?? list[0]?.deviceId ?? ''}
        disabled={list.length === 0 || !wanted[kind]}
        onChange={(event) => void pick(kind, event.target.value)}
      >
        {list.length === 0 && <option value="">{wanted[kind] ? 'None found' : 'Off'}</option>}
        {list.map(({ deviceId, label }, index) => (
          <option key={deviceId} value={deviceId}>
            {label || `${LABELS[kind]} ${index + 1}`}
          </option>
        ))}
      </select>
    </label>
  );
}

function Level() {
  const level = useLevel(usePreview((state) => state.microphone));
  return (
    <div
      role="meter"
      aria-label="Microphone level"
      aria-valuemin={0}
      aria-valuemax={100}
      aria-valuenow={Math.round(level * 100)}
      className="h-1.5 overflow-hidden rounded-full bg-raised"
    >
      <div
        className="h-full origin-left rounded-full bg-good transition-transform duration-75"
        style={{ transform: `scaleX(${level})` }}
      />
    </div>
  );
}

function ProblemNote({ problem }: { problem: Problem }) {
  return (
    <p className="rounded-xl border border-sun/40 bg-sun/10 px-3.5 py-2.5 text-sm" role="status">
      <strong className="block font-semibold">{problem.title}</strong>
      <span className="text-soft">{problem.hint}</span>
    </p>
  );
}

/** One's own picture and microphone level before the call, with switches and the choice of devices. */
export function Preview() {
  const camera = usePreview((state) => state.camera);
  const problems = usePreview((state) => state.problems);
  const shown = [problems.camera, problems.microphone].filter(
    (problem, index, all) => problem && all.findIndex((other) => other?.title === problem.title) === index,
  );
  return (
    <section aria-label="Camera and microphone" className="flex min-w-0 flex-col gap-3">
      <div className="relative aspect-video overflow-hidden rounded-2xl border border-line bg-panel">
        {camera ? (
          <VideoView track={camera} mirrored />
        ) : (
          <p className="grid size-full place-items-center text-soft">Your camera is off</p>
        )}
        <div className="absolute inset-x-0 bottom-3 flex justify-center gap-3">
          <Switch kind="microphone" />
          <Switch kind="camera" />
        </div>
      </div>
      <Level />
      <div className="flex gap-3">
        <DevicePicker kind="camera" />
        <DevicePicker kind="microphone" />
      </div>
      {shown.map((problem) => problem && <ProblemNote key={problem.title} problem={problem} />)}
    </section>
  );
}
