import { useCall } from './store';

/** After the call: why it ended, and the way back. */
export function Ended() {
  const { room, problem, backToLobby } = useCall();
  return (
    <main className="flex flex-1 p-4">
      <section className="m-auto w-full max-w-md rounded-2xl border border-line bg-panel p-8 text-center">
        <h1 className="text-2xl font-bold tracking-tight">{problem?.title ?? 'You left the call'}</h1>
        <p role={problem ? 'alert' : undefined} className="mt-2 mb-6 text-soft">
          {problem?.hint ?? `The room ${room} stays open for the others.`}
        </p>
        <button type="button" autoFocus onClick={backToLobby} className="button button-primary w-full">
          Rejoin
        </button>
      </section>
    </main>
  );
}
